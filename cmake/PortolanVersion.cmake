# SPDX-License-Identifier: Apache-2.0
# Defines portolan_version, the library behind runtime/version.hpp. At each build this file also runs
# as a script (cmake -P) that writes the library's source about the build, which changes, and is
# compiled again, only when the commit, or whether the tree is clean, has changed.

if(CMAKE_SCRIPT_MODE_FILE)
  set(GIT_COMMIT "unknown")
  find_program(GIT git)
  if(GIT AND EXISTS "${SOURCE_DIRECTORY}/.git")
    execute_process(
      COMMAND "${GIT}" describe --always --abbrev=40 --exclude=* --dirty
      WORKING_DIRECTORY "${SOURCE_DIRECTORY}"
      OUTPUT_VARIABLE commit
      OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET
      RESULT_VARIABLE failed)
    if(NOT failed)
      set(GIT_COMMIT "${commit}")
    endif()
  endif()
  foreach(list IN ITEMS DEVICES LIBRARIES) # as C++ string literals
    list(TRANSFORM ${list} REPLACE "(.+)" "\"\\1\"")
    list(JOIN ${list} ", " ${list})
  endforeach()
  configure_file("${SOURCE_DIRECTORY}/runtime/version.cpp.in" "${OUTPUT}" @ONLY)
  return()
endif()

set(portolan_devices serial)
if(Portolan_ENABLE_OPENMP)
  list(APPEND portolan_devices cpu)
endif()
if(Portolan_ENABLE_CUDA)
  list(APPEND portolan_devices cuda)
endif()
set(portolan_used_libraries ${Portolan_SUMMARY})
list(FILTER portolan_used_libraries EXCLUDE REGEX "^(GTest|benchmark) ") # not part of the program
set(portolan_version_source "${PROJECT_BINARY_DIR}/generated/version.cpp")
add_custom_target(
  portolan_write_version
  COMMAND
    "${CMAKE_COMMAND}" "-DSOURCE_DIRECTORY=${PROJECT_SOURCE_DIR}"
    "-DOUTPUT=${portolan_version_source}" "-DVERSION=${PROJECT_VERSION}"
    "-DCOMPILER=${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}" "-DBUILD_TYPE=$<CONFIG>"
    "-DDEVICES=${portolan_devices}" "-DLIBRARIES=${portolan_used_libraries}" -P
    "${CMAKE_CURRENT_LIST_FILE}"
  BYPRODUCTS "${portolan_version_source}"
  COMMENT "" VERBATIM)
portolan_library(version "${portolan_version_source}"
                 "${PROJECT_SOURCE_DIR}/runtime/version_json.cpp")
target_link_libraries(portolan_version PUBLIC nlohmann_json::nlohmann_json)
add_dependencies(portolan_version portolan_write_version)
