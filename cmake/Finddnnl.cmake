# SPDX-License-Identifier: Apache-2.0
# Finds oneDNN 2.6 or newer: dnnl_FOUND, dnnl_VERSION, target DNNL::dnnl.
#
# oneDNN's own config file is not used: Debian's asks for OpenCL's development files, which its
# package does not depend on and Portolan does not need.

find_path(dnnl_INCLUDE_DIR NAMES oneapi/dnnl/dnnl.hpp)
find_library(dnnl_LIBRARY NAMES dnnl)
mark_as_advanced(dnnl_INCLUDE_DIR dnnl_LIBRARY)

if(dnnl_INCLUDE_DIR AND EXISTS "${dnnl_INCLUDE_DIR}/oneapi/dnnl/dnnl_version.h")
  file(STRINGS "${dnnl_INCLUDE_DIR}/oneapi/dnnl/dnnl_version.h" dnnl_lines
       REGEX "#define DNNL_VERSION_(MAJOR|MINOR|PATCH) +[0-9]+")
  string(REGEX REPLACE "[^0-9;]" "" dnnl_VERSION "${dnnl_lines}")
  string(REPLACE ";" "." dnnl_VERSION "${dnnl_VERSION}")
  unset(dnnl_lines)
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
  dnnl
  REQUIRED_VARS dnnl_LIBRARY dnnl_INCLUDE_DIR
  VERSION_VAR dnnl_VERSION)

if(dnnl_FOUND AND NOT TARGET DNNL::dnnl)
  add_library(DNNL::dnnl UNKNOWN IMPORTED)
  set_target_properties(DNNL::dnnl PROPERTIES IMPORTED_LOCATION "${dnnl_LIBRARY}"
                                              INTERFACE_INCLUDE_DIRECTORIES "${dnnl_INCLUDE_DIR}")
  if(dnnl_LIBRARY MATCHES "\\.a$")
    find_package(OpenMP REQUIRED COMPONENTS CXX)
    find_package(Threads REQUIRED)
    set_property(
      TARGET DNNL::dnnl
      PROPERTY INTERFACE_LINK_LIBRARIES OpenMP::OpenMP_CXX Threads::Threads ${CMAKE_DL_LIBS})
  endif()
endif()
