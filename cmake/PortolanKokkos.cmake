# SPDX-License-Identifier: Apache-2.0
# Finds Kokkos and Kokkos Kernels of any version from 3.4.1 on, whoever built them, and makes sure
# that the targets Kokkos::kokkos and Kokkos::kokkoskernels exist and are usable.
#
# Reads Portolan_ENABLE_OPENMP, Portolan_ENABLE_CUDA and, with CUDA, CUDAToolkit_VERSION. Sets
# Portolan_KOKKOS_FOUND, or else Portolan_KOKKOS_REASON to one sentence that says what is wrong with
# what was found; and Portolan_KOKKOS_KERNELS to whether Kokkos Kernels belongs to that Kokkos, which
# only a build with CUDA can do without.

set(Portolan_KOKKOS_FOUND FALSE)
set(Portolan_KOKKOS_KERNELS FALSE)
set(Portolan_KOKKOS_REASON "")

# Portolan says itself which sources are compiled as CUDA; Kokkos would wrap every compiler call.
if(Portolan_ENABLE_CUDA)
  set(Kokkos_LAUNCH_COMPILER OFF)
endif()

# Without a version: Kokkos' version file refuses every newer major version.
find_package(Kokkos QUIET)
find_package(KokkosKernels QUIET)

# Kokkos 3 built as a part of Trilinos (as Debian 12 packages it) gives Kokkos::kokkos an include
# path that ignores multiarch library folders, and Kokkos Kernels no namespaced target at all.
foreach(package IN ITEMS Kokkos KokkosKernels)
  string(TOLOWER Kokkos::${package} target)
  string(REPLACE "kokkos::" "Kokkos::" target ${target})
  if(${package}_FOUND AND ${package}_LIBRARIES AND ${package}_INCLUDE_DIRS)
    if(NOT TARGET ${target})
      add_library(${target} INTERFACE IMPORTED)
    endif()
    set_target_properties(
      ${target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${${package}_INCLUDE_DIRS}"
                           INTERFACE_LINK_LIBRARIES "${${package}_LIBRARIES}")
  elseif(${package}_FOUND AND NOT TARGET ${target} AND TARGET ${package}::all_libs)
    add_library(${target} INTERFACE IMPORTED)
    target_link_libraries(${target} INTERFACE ${package}::all_libs)
  endif()
endforeach()

if(NOT Kokkos_FOUND)
  set(Portolan_KOKKOS_REASON "Kokkos was not found")
elseif(Kokkos_VERSION VERSION_LESS 3.4.1)
  set(Portolan_KOKKOS_REASON "Kokkos ${Kokkos_VERSION} in ${Kokkos_DIR} is older than 3.4.1")
elseif(NOT TARGET Kokkos::kokkos)
  set(Portolan_KOKKOS_REASON "Kokkos in ${Kokkos_DIR} defines no target Kokkos::kokkos")
elseif(NOT "SERIAL" IN_LIST Kokkos_DEVICES)
  set(Portolan_KOKKOS_REASON "Kokkos in ${Kokkos_DIR} was built without Serial")
elseif(Portolan_ENABLE_OPENMP AND NOT "OPENMP" IN_LIST Kokkos_DEVICES)
  set(Portolan_KOKKOS_REASON
      "Kokkos in ${Kokkos_DIR} was built without OpenMP (it has ${Kokkos_DEVICES})")
elseif(Portolan_ENABLE_CUDA AND NOT "CUDA" IN_LIST Kokkos_DEVICES)
  set(Portolan_KOKKOS_REASON
      "Kokkos in ${Kokkos_DIR} was built without CUDA (it has ${Kokkos_DEVICES})")
elseif(NOT Portolan_ENABLE_CUDA AND "CUDA" IN_LIST Kokkos_DEVICES)
  set(Portolan_KOKKOS_REASON
      "Kokkos in ${Kokkos_DIR} was built with CUDA, which asks for -DPortolan_ENABLE_CUDA=ON")
elseif(Portolan_ENABLE_CUDA AND NOT "${Kokkos_COMPILE_LANGUAGE}" STREQUAL "CUDA")
  set(Portolan_KOKKOS_REASON
      "Kokkos in ${Kokkos_DIR} was built by a compiler wrapper, not as CMake's language CUDA (Kokkos_ENABLE_COMPILE_AS_CMAKE_LANGUAGE=ON)")
elseif(Portolan_ENABLE_CUDA AND Kokkos_VERSION VERSION_LESS 4.0)
  set(Portolan_KOKKOS_REASON "Kokkos ${Kokkos_VERSION} in ${Kokkos_DIR} is older than 4.0, the first for CUDA 12")
elseif(Portolan_ENABLE_CUDA AND CUDAToolkit_VERSION VERSION_GREATER_EQUAL 13
       AND Kokkos_VERSION VERSION_LESS 4.6)
  set(Portolan_KOKKOS_REASON
      "Kokkos ${Kokkos_VERSION} in ${Kokkos_DIR} does not know CUDA ${CUDAToolkit_VERSION}, which needs 4.7 or newer")
elseif(NOT TARGET Kokkos::kokkoskernels AND NOT Portolan_ENABLE_CUDA)
  set(Portolan_KOKKOS_REASON "Kokkos Kernels was not found beside Kokkos ${Kokkos_VERSION}")
else()
  set(Portolan_KOKKOS_FOUND TRUE)
  if(TARGET Kokkos::kokkoskernels)
    set(Portolan_KOKKOS_KERNELS TRUE)
  endif()
endif()

if(Portolan_KOKKOS_FOUND AND Portolan_ENABLE_CUDA)
  if(CUDAToolkit_VERSION VERSION_GREATER_EQUAL 13 AND Kokkos_VERSION VERSION_LESS 4.7)
    message(WARNING "Kokkos ${Kokkos_VERSION} is older than 4.7, the first made for CUDA 13")
  endif()
  # A CPU build's Kokkos Kernels may lie in the same prefix path; only the Kokkos it was built for
  # can use it.
  string(REGEX MATCH "^[0-9]+\\.[0-9]+" kokkos_release "${Kokkos_VERSION}")
  if(NOT "${KokkosKernels_VERSION}." MATCHES "^${kokkos_release}\\.")
    set(Portolan_KOKKOS_KERNELS FALSE)
  endif()
endif()
