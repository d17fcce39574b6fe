# SPDX-License-Identifier: Apache-2.0
# The packages that Portolan's libraries are made of. Used by Portolan's own build and, installed,
# by PortolanConfig.cmake, so that both ask for the same things.
#
# Reads Portolan_ENABLE_OPENMP, Portolan_ENABLE_CUDA and Portolan_ENABLE_NCCL. Appends one sentence
# for each package that is missing to Portolan_MISSING, and one line for each that is there to
# Portolan_SUMMARY. Sets Portolan_NCCL to whether NCCL, which nothing depends on, is there. The
# targets are named at each call.

list(APPEND CMAKE_MODULE_PATH "${CMAKE_CURRENT_LIST_DIR}")

# portolan_find(PACKAGE DEBIAN_PACKAGE [arguments of find_package...])
macro(portolan_find package debian_package)
  find_package(${package} QUIET ${ARGN})
  if(${package}_FOUND)
    foreach(version IN ITEMS "${${package}_VERSION}" "${${package}_C_VERSION}" "${${package}_CXX_VERSION}")
      if(version)
        list(APPEND Portolan_SUMMARY "${package} ${version}")
        break()
      endif()
    endforeach()
  else()
    list(APPEND Portolan_MISSING
         "${package} was not found: install the Debian package ${debian_package}, or add the prefix it is installed in to CMAKE_PREFIX_PATH")
  endif()
endmacro()

# portolan_find_module(NAME PKG_CONFIG_MODULE DEBIAN_PACKAGE) gives the target PkgConfig::NAME.
macro(portolan_find_module name module debian_package)
  if(PKG_CONFIG_FOUND)
    pkg_check_modules(${name} QUIET IMPORTED_TARGET GLOBAL ${module})
  endif()
  if(${name}_FOUND)
    list(APPEND Portolan_SUMMARY "${name} ${${name}_VERSION}")
  else()
    list(APPEND Portolan_MISSING
         "${name} was not found: install the Debian package ${debian_package}, or add the folder of ${module}.pc to PKG_CONFIG_PATH")
  endif()
endmacro()

find_package(Threads REQUIRED)
find_package(PkgConfig QUIET)
if(NOT PKG_CONFIG_FOUND)
  list(APPEND Portolan_MISSING "pkg-config was not found: install the Debian package pkg-config")
endif()

portolan_find(fmt libfmt-dev) # fmt::fmt
portolan_find(spdlog libspdlog-dev) # spdlog::spdlog
portolan_find(nlohmann_json nlohmann-json3-dev) # nlohmann_json::nlohmann_json
portolan_find(MPI libopenmpi-dev COMPONENTS C) # MPI::MPI_C
portolan_find_module(hwloc hwloc libhwloc-dev) # PkgConfig::hwloc
portolan_find_module(pcre2 libpcre2-8 libpcre2-dev) # PkgConfig::pcre2
portolan_find_module(icu icu-uc libicu-dev) # PkgConfig::icu
portolan_find_module(minizip minizip libminizip-dev) # PkgConfig::minizip
portolan_find(hwy libhwy-dev CONFIG) # hwy::hwy
if(Portolan_ENABLE_OPENMP)
  portolan_find(OpenMP g++ COMPONENTS CXX) # OpenMP::OpenMP_CXX
  portolan_find(dnnl libdnnl-dev 2.6) # DNNL::dnnl
  portolan_find(libxsmm libxsmm-dev 1.17) # libxsmm::libxsmm
endif()
set(Portolan_NCCL FALSE)
if(Portolan_ENABLE_CUDA)
  portolan_find(CUDAToolkit nvidia-cuda-toolkit) # CUDA::cudart_static, CUDA::cublasLt
  if(Portolan_ENABLE_NCCL)
    find_package(NCCL 2.10 QUIET) # NCCL::nccl
    if(NCCL_FOUND)
      set(Portolan_NCCL TRUE)
      list(APPEND Portolan_SUMMARY "NCCL ${NCCL_VERSION}")
    endif()
  endif()
endif()

include("${CMAKE_CURRENT_LIST_DIR}/PortolanKokkos.cmake") # Kokkos::kokkos, Kokkos::kokkoskernels
if(Portolan_KOKKOS_FOUND)
  string(REPLACE ";" " " Portolan_kokkos_devices "${Kokkos_DEVICES}")
  list(APPEND Portolan_SUMMARY "Kokkos ${Kokkos_VERSION} (${Portolan_kokkos_devices}) in ${Kokkos_DIR}")
elseif(Portolan_ENABLE_CUDA)
  list(APPEND Portolan_MISSING
       "${Portolan_KOKKOS_REASON}: add the prefix of a Kokkos with CUDA to CMAKE_PREFIX_PATH, see docs/cuda.md")
else()
  list(APPEND Portolan_MISSING
       "${Portolan_KOKKOS_REASON}: run scripts/setup, which builds it, or add the prefix of a Kokkos that fits to CMAKE_PREFIX_PATH")
endif()
