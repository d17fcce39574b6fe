# SPDX-License-Identifier: Apache-2.0
# Finds libxsmm 1.17 or newer: libxsmm_FOUND, libxsmm_VERSION, target libxsmm::libxsmm.
#
# libxsmm refers to BLAS for products that it does not generate code for. Portolan asks for none of
# those, so the stand-in libxsmmnoblas is linked instead of a BLAS.

find_path(libxsmm_INCLUDE_DIR NAMES libxsmm.h)
find_library(libxsmm_LIBRARY NAMES xsmm)
find_library(libxsmm_NOBLAS_LIBRARY NAMES xsmmnoblas)
mark_as_advanced(libxsmm_INCLUDE_DIR libxsmm_LIBRARY libxsmm_NOBLAS_LIBRARY)

foreach(header IN ITEMS libxsmm_version.h libxsmm_config.h)
  if(NOT libxsmm_VERSION AND EXISTS "${libxsmm_INCLUDE_DIR}/${header}")
    file(STRINGS "${libxsmm_INCLUDE_DIR}/${header}" libxsmm_lines
         REGEX "#define LIBXSMM(_CONFIG)?_VERSION_(MAJOR|MINOR|UPDATE) +[0-9]+")
    string(REGEX REPLACE "[^0-9;]" "" libxsmm_VERSION "${libxsmm_lines}")
    string(REPLACE ";" "." libxsmm_VERSION "${libxsmm_VERSION}")
    unset(libxsmm_lines)
  endif()
endforeach()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
  libxsmm
  REQUIRED_VARS libxsmm_LIBRARY libxsmm_NOBLAS_LIBRARY libxsmm_INCLUDE_DIR
  VERSION_VAR libxsmm_VERSION)

if(libxsmm_FOUND AND NOT TARGET libxsmm::libxsmm)
  find_package(Threads REQUIRED)
  add_library(libxsmm::libxsmm UNKNOWN IMPORTED)
  set_target_properties(
    libxsmm::libxsmm
    PROPERTIES
      IMPORTED_LOCATION "${libxsmm_LIBRARY}"
      INTERFACE_INCLUDE_DIRECTORIES "${libxsmm_INCLUDE_DIR}"
      INTERFACE_LINK_LIBRARIES "${libxsmm_NOBLAS_LIBRARY};Threads::Threads;${CMAKE_DL_LIBS};rt;m")
endif()
