# SPDX-License-Identifier: Apache-2.0
# Installation, so that other projects can say find_package(Portolan). tests/package proves it.

include(CMakePackageConfigHelpers)

get_property(portolan_libraries GLOBAL PROPERTY PORTOLAN_LIBRARIES)
install(TARGETS ${portolan_libraries} portolan_settings EXPORT PortolanLibraries)

# The public interface: headers of backends, kernels and transports are details of the libraries.
foreach(folder IN ITEMS core attention parallel models models/generation models/tokenizers training runtime)
  file(GLOB headers CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/${folder}/*.hpp")
  install(FILES ${headers} DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}/portolan/${folder}")
endforeach()

set(portolan_cmake_folder "${CMAKE_INSTALL_LIBDIR}/cmake/Portolan")
install(
  EXPORT PortolanLibraries
  NAMESPACE Portolan::
  DESTINATION "${portolan_cmake_folder}")
configure_package_config_file(
  "${CMAKE_CURRENT_LIST_DIR}/PortolanConfig.cmake.in" "${PROJECT_BINARY_DIR}/PortolanConfig.cmake"
  INSTALL_DESTINATION "${portolan_cmake_folder}")
write_basic_package_version_file("${PROJECT_BINARY_DIR}/PortolanConfigVersion.cmake"
                                 COMPATIBILITY SameMajorVersion)
install(
  FILES "${PROJECT_BINARY_DIR}/PortolanConfig.cmake"
        "${PROJECT_BINARY_DIR}/PortolanConfigVersion.cmake"
        "${CMAKE_CURRENT_LIST_DIR}/PortolanDependencies.cmake"
        "${CMAKE_CURRENT_LIST_DIR}/PortolanKokkos.cmake"
        "${CMAKE_CURRENT_LIST_DIR}/FindNCCL.cmake"
        "${CMAKE_CURRENT_LIST_DIR}/Finddnnl.cmake"
        "${CMAKE_CURRENT_LIST_DIR}/Findlibxsmm.cmake"
  DESTINATION "${portolan_cmake_folder}")
