// SPDX-License-Identifier: Apache-2.0
// Prints which Portolan it was built with, and the element types that the engine computes in.
#include <iostream>

#include "core/dtype.hpp"
#include "runtime/version.hpp"

int main() {
  const portolan::BuildInformation build = portolan::build_information();
  std::cout << "Portolan " << build.version << " (" << build.git_commit << ", " << build.compiler
            << ", " << build.build_type << ")\n";
  for (const portolan::DType dtype :
       {portolan::DType::f32, portolan::DType::bf16, portolan::DType::f16}) {
    if (portolan::dtype_from_name(portolan::name_of(dtype)) != dtype) return 1;
    std::cout << portolan::name_of(dtype) << ": " << portolan::size_of(dtype) << " bytes\n";
  }
}
