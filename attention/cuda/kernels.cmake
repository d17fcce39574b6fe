# SPDX-License-Identifier: Apache-2.0
# portolan_cuda_attention_kernels(NAME) defines the static library NAME of all attention kernels in
# CUDA C++, which need neither Kokkos nor the rest of the project. Those for Hopper (sm90_*) use
# instructions that only compute capability 9.0 has, and are built for it alone; the others for
# CMAKE_CUDA_ARCHITECTURES.
set(portolan_cuda_attention_folder "${CMAKE_CURRENT_LIST_DIR}")

function(portolan_cuda_attention_kernels name)
  file(GLOB hopper CONFIGURE_DEPENDS "${portolan_cuda_attention_folder}/sm90_*.cu")
  file(GLOB sources CONFIGURE_DEPENDS "${portolan_cuda_attention_folder}/*.cu")
  list(REMOVE_ITEM sources ${hopper})
  add_library(${name}_hopper OBJECT ${hopper})
  set_target_properties(${name}_hopper PROPERTIES CUDA_ARCHITECTURES 90a-real)
  add_library(${name} STATIC ${sources} $<TARGET_OBJECTS:${name}_hopper>)
  foreach(target IN ITEMS ${name} ${name}_hopper)
    set_target_properties(${target} PROPERTIES POSITION_INDEPENDENT_CODE ON)
    target_include_directories(${target} PRIVATE "${portolan_cuda_attention_folder}/../..")
    # Functions of the standard library that are constexpr serve device code as well.
    target_compile_options(
      ${target} PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr>)
  endforeach()
endfunction()
