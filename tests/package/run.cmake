# SPDX-License-Identifier: Apache-2.0
# The steps of the test that tests/package/CMakeLists.txt defines.

function(step)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result)
  if(NOT result EQUAL 0)
    list(JOIN ARGN " " command)
    message(FATAL_ERROR "failed (${result}): ${command}")
  endif()
endfunction()

file(REMOVE_RECURSE "${WORK}")
step("${CMAKE_COMMAND}" --install "${BUILD_DIRECTORY}" --prefix "${WORK}/prefix")
step("${CMAKE_COMMAND}" -G "${GENERATOR}" -S "${EXAMPLE}" -B "${WORK}/build"
     "-DCMAKE_PREFIX_PATH=${WORK}/prefix\\;${PREFIX_PATH}"
     "-DCMAKE_BUILD_TYPE=${BUILD_TYPE}" "-DCMAKE_CXX_COMPILER=${CXX_COMPILER}"
     "-DCMAKE_C_COMPILER=${C_COMPILER}")
step("${CMAKE_COMMAND}" --build "${WORK}/build")
step("${WORK}/build/example")
