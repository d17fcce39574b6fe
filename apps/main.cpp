// SPDX-License-Identifier: Apache-2.0
#include "apps/command_line.hpp"

int main(int argc, char** argv) { return portolan::run_command_line(argc, argv); }
