// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/format.h>

#include <oneapi/dnnl/dnnl.hpp>
#include <string>

/// What differs between oneDNN 2.6 and 3.x, under one name.
namespace portolan::compat {

/// The implementation oneDNN chooses for a product destination = source * weights + bias; an empty
/// bias is none.
inline dnnl::matmul::primitive_desc make_matmul_description(
    const dnnl::engine& engine, const dnnl::memory::desc& source, const dnnl::memory::desc& weights,
    const dnnl::memory::desc& bias, const dnnl::memory::desc& destination,
    const dnnl::primitive_attr& attributes) {
#if DNNL_VERSION_MAJOR >= 3
  return dnnl::matmul::primitive_desc(engine, source, weights, bias, destination, attributes);
#else
  return dnnl::matmul::primitive_desc(dnnl::matmul::desc(source, weights, bias, destination),
                                      attributes, engine);
#endif
}

/// Version of the library that is loaded, e.g. "2.6.3".
inline std::string onednn_version() {
  const dnnl_version_t* const version = dnnl_version();
  return fmt::format("{}.{}.{}", version->major, version->minor, version->patch);
}

}  // namespace portolan::compat
