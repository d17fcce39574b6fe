# SPDX-License-Identifier: Apache-2.0
# Helpers that give every target of the project the same settings, without global flags.

add_library(portolan_settings INTERFACE)
set_target_properties(portolan_settings PROPERTIES EXPORT_NAME settings)
target_compile_features(portolan_settings INTERFACE cxx_std_20)
target_include_directories(
  portolan_settings INTERFACE $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>
                              $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}/portolan>)

add_library(portolan_warnings INTERFACE)
target_compile_options(
  portolan_warnings
  INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wpedantic>
            $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<BOOL:${Portolan_ENABLE_WERROR}>>:-Werror>)
# One product and one sum must round twice everywhere, or serial and vector kernels would differ in
# the random numbers that initialise weights.
target_compile_options(portolan_warnings INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-ffp-contract=off>)

target_compile_options(
  portolan_warnings
  INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra,-ffp-contract=off>
            $<$<AND:$<COMPILE_LANGUAGE:CUDA>,$<BOOL:${Portolan_ENABLE_WERROR}>>:-Werror=all-warnings>)

# portolan_kokkos_sources(SOURCES...) names the sources of the present folder that include headers of
# Kokkos. Kokkos built with CUDA refuses a plain C++ compiler, so in a build with CUDA these, and only
# these, are compiled as CUDA.
function(portolan_kokkos_sources)
  if(Portolan_ENABLE_CUDA)
    # Functions of the standard library that are constexpr serve device code as well. fmt 9 believes
    # that nvcc has no constexpr, and then does not compile as C++20.
    set_source_files_properties(
      ${ARGN} PROPERTIES LANGUAGE CUDA COMPILE_OPTIONS --expt-relaxed-constexpr COMPILE_DEFINITIONS
                                                                              FMT_USE_CONSTEXPR=1)
  endif()
endfunction()

if(Portolan_SANITIZE)
  target_compile_options(portolan_settings INTERFACE -fsanitize=${Portolan_SANITIZE}
                                                     -fno-sanitize-recover=all
                                                     -fno-omit-frame-pointer)
  target_link_options(portolan_settings INTERFACE -fsanitize=${Portolan_SANITIZE})
endif()

# portolan_library(NAME SOURCES...) defines the static library portolan_NAME, alias Portolan::NAME,
# which is installed under that alias unless it is a part of the apps, tests or benchmarks.
function(portolan_library name)
  add_library(portolan_${name} STATIC ${ARGN})
  add_library(Portolan::${name} ALIAS portolan_${name})
  set_target_properties(portolan_${name} PROPERTIES EXPORT_NAME ${name} POSITION_INDEPENDENT_CODE ON)
  target_link_libraries(portolan_${name} PUBLIC portolan_settings
                                         PRIVATE $<BUILD_INTERFACE:portolan_warnings>)
  if(NOT CMAKE_CURRENT_SOURCE_DIR MATCHES "^${PROJECT_SOURCE_DIR}/(apps|tests|bench)")
    set_property(GLOBAL APPEND PROPERTY PORTOLAN_LIBRARIES portolan_${name})
  endif()
endfunction()
