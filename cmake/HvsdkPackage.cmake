# What is installed: libraries and headers, a CMake package with a component for each library, pkg-config files, documents.
#
# A library is declared to be a component with what it links; from that follow the components below it and the packages
# that must be found for it, so that whoever wants hvsdk::vmbus alone needs no protobuf.

set_property(GLOBAL PROPERTY HVSDK_COMPONENTS "")

# The package that an imported target comes from, as find_package and pkg-config call it; empty where they do not.
function(hvsdk_package_of target package_out pkg_config_out libs_out)
  set(package "")
  set(pkg_config "")
  set(libs "")
  if(target MATCHES "^absl::(.*)$")
    set(package absl)
    set(pkg_config "absl_${CMAKE_MATCH_1}")
  elseif(target MATCHES "^protobuf::")
    set(package Protobuf)
    set(pkg_config protobuf)
  elseif(target STREQUAL "Threads::Threads")
    set(package Threads)
    set(libs "-pthread")
  elseif(target STREQUAL "uring")
    set(pkg_config liburing)
  elseif(target STREQUAL "xxhash")
    set(pkg_config libxxhash)
  elseif(NOT target MATCHES "::")
    set(libs "-l${target}")
  else()
    message(FATAL_ERROR "nobody knows which package ${target} comes from")
  endif()
  set(${package_out} "${package}" PARENT_SCOPE)
  set(${pkg_config_out} "${pkg_config}" PARENT_SCOPE)
  set(${libs_out} "${libs}" PARENT_SCOPE)
endfunction()

# hvsdk_component(NAME DEPENDENCY...): makes the target hvsdk_NAME, which links the dependencies, hvsdk's component NAME.
# Components come in the order of their dependencies.
function(hvsdk_component name)
  set(below "")
  set(packages "")
  set(requires "")
  set(libs "")
  foreach(dependency IN LISTS ARGN)
    if(dependency MATCHES "^hvsdk::(.*)$")
      set(component ${CMAKE_MATCH_1})
      get_property(those GLOBAL PROPERTY HVSDK_${component}_BELOW)
      list(APPEND below ${those} ${component})
      get_property(those GLOBAL PROPERTY HVSDK_${component}_PACKAGES)
      list(APPEND packages ${those})
      get_property(those GLOBAL PROPERTY HVSDK_${component}_REQUIRES)
      list(APPEND requires ${those})
      get_property(those GLOBAL PROPERTY HVSDK_${component}_LIBS)
      list(APPEND libs ${those})
    else()
      hvsdk_package_of(${dependency} package pkg_config lib)
      list(APPEND packages ${package})
      list(APPEND requires ${pkg_config})
      list(APPEND libs ${lib})
    endif()
  endforeach()
  foreach(list IN ITEMS below packages requires libs)
    list(REMOVE_DUPLICATES ${list})
  endforeach()
  set_property(GLOBAL APPEND PROPERTY HVSDK_COMPONENTS ${name})
  set_property(GLOBAL PROPERTY HVSDK_${name}_BELOW "${below}")
  set_property(GLOBAL PROPERTY HVSDK_${name}_PACKAGES "${packages}")
  set_property(GLOBAL PROPERTY HVSDK_${name}_REQUIRES "${requires}")  # of pkg-config's, and others' libraries; those of the ones below, too
  set_property(GLOBAL PROPERTY HVSDK_${name}_LIBS "${libs}")
  set_target_properties(hvsdk_${name} PROPERTIES EXPORT_NAME ${name})
  install(TARGETS hvsdk_${name} EXPORT hvsdk-${name})
  install(EXPORT hvsdk-${name} NAMESPACE hvsdk:: DESTINATION "${CMAKE_INSTALL_LIBDIR}/cmake/hvsdk")
  hvsdk_archives(archives ${below} ${name})
  hvsdk_pkg_config("hvsdk-${name}" "hvsdk's library ${name}" "${requires}" "${archives};${libs}")
endfunction()

# The archives of components that come in the order of their dependencies, in a linker's order.
function(hvsdk_archives out)
  set(archives "")
  foreach(component IN LISTS ARGN)
    get_target_property(type hvsdk_${component} TYPE)
    if(NOT type STREQUAL "INTERFACE_LIBRARY")
      list(PREPEND archives "-lhvsdk_${component}")
    endif()
  endforeach()
  set(${out} "${archives}" PARENT_SCOPE)
endfunction()

# A pkg-config file, which names all archives itself: pkgconf walks every way from one file to another, of which libraries upon libraries
# have thousands. It finds its prefix from where it lies.
function(hvsdk_pkg_config name description requires libs)
  set(folder "${CMAKE_INSTALL_LIBDIR}/pkgconfig")
  file(RELATIVE_PATH up "/prefix/${folder}" "/prefix")
  string(REGEX REPLACE "/$" "" up "${up}")
  list(JOIN requires ", " requires)
  list(JOIN libs " " libs)
  file(CONFIGURE OUTPUT "${PROJECT_BINARY_DIR}/pkgconfig/${name}.pc" @ONLY CONTENT [[
prefix=${pcfiledir}/@up@
libdir=${prefix}/@CMAKE_INSTALL_LIBDIR@
includedir=${prefix}/@CMAKE_INSTALL_INCLUDEDIR@

Name: @name@
Description: @description@ (C++20)
Version: @PROJECT_VERSION@
Requires: @requires@
Libs: -L${libdir} @libs@
Cflags: -I${includedir}
]])
  install(FILES "${PROJECT_BINARY_DIR}/pkgconfig/${name}.pc" DESTINATION "${folder}")
endfunction()

# hvsdk_export(LIBRARY...): installs what is declared so far, and hvsdk::hvsdk, which stands for the libraries.
function(hvsdk_export)
  add_library(hvsdk INTERFACE)
  add_library(hvsdk::hvsdk ALIAS hvsdk)
  target_link_libraries(hvsdk INTERFACE ${ARGN})
  install(TARGETS hvsdk EXPORT hvsdk-all)
  install(EXPORT hvsdk-all NAMESPACE hvsdk:: DESTINATION "${CMAKE_INSTALL_LIBDIR}/cmake/hvsdk")

  list(TRANSFORM ARGN REPLACE "^hvsdk::" "" OUTPUT_VARIABLE all)
  hvsdk_archives(archives ${all})
  set(all_requires "")
  set(all_libs "")
  foreach(name IN LISTS all)
    get_property(requires GLOBAL PROPERTY HVSDK_${name}_REQUIRES)
    get_property(libs GLOBAL PROPERTY HVSDK_${name}_LIBS)
    list(APPEND all_requires ${requires})
    list(APPEND all_libs ${libs})
  endforeach()
  list(REMOVE_DUPLICATES all_requires)
  list(REMOVE_DUPLICATES all_libs)
  hvsdk_pkg_config(hvsdk "${PROJECT_DESCRIPTION}" "${all_requires}" "${archives};${all_libs}")

  get_property(hvsdk_components GLOBAL PROPERTY HVSDK_COMPONENTS)
  set(hvsdk_table "")
  foreach(name IN LISTS hvsdk_components)
    get_property(below GLOBAL PROPERTY HVSDK_${name}_BELOW)
    get_property(packages GLOBAL PROPERTY HVSDK_${name}_PACKAGES)
    string(APPEND hvsdk_table "set(_hvsdk_${name}_below ${below})\nset(_hvsdk_${name}_packages ${packages})\n")
  endforeach()
  set(hvsdk_testing "${CMAKE_INSTALL_DATADIR}/hvsdk/testing")
  include(CMakePackageConfigHelpers)
  configure_package_config_file("${PROJECT_SOURCE_DIR}/cmake/hvsdkConfig.cmake.in"
    "${PROJECT_BINARY_DIR}/hvsdkConfig.cmake" PATH_VARS hvsdk_testing
    INSTALL_DESTINATION "${CMAKE_INSTALL_LIBDIR}/cmake/hvsdk")
  write_basic_package_version_file("${PROJECT_BINARY_DIR}/hvsdkConfigVersion.cmake"
    COMPATIBILITY SameMinorVersion)
  install(FILES "${PROJECT_BINARY_DIR}/hvsdkConfig.cmake" "${PROJECT_BINARY_DIR}/hvsdkConfigVersion.cmake"
    DESTINATION "${CMAKE_INSTALL_LIBDIR}/cmake/hvsdk")

  install(DIRECTORY "${PROJECT_SOURCE_DIR}/include/hvsdk" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
  # A page's files, if scripts/web-assets has made them.
  install(DIRECTORY "${PROJECT_SOURCE_DIR}/build/web/" DESTINATION "${CMAKE_INSTALL_DATADIR}/hvsdk/web" OPTIONAL
    PATTERN ".*" EXCLUDE)
  # As in the sources, so that links from one document to another, and to examples, hold.
  install(FILES "${PROJECT_SOURCE_DIR}/README.md" "${PROJECT_SOURCE_DIR}/CHANGELOG.md" "${PROJECT_SOURCE_DIR}/LICENSE"
    DESTINATION "${CMAKE_INSTALL_DOCDIR}")
  install(DIRECTORY "${PROJECT_SOURCE_DIR}/docs" "${PROJECT_SOURCE_DIR}/examples" DESTINATION "${CMAKE_INSTALL_DOCDIR}")
  # What a component promises, for tests of other projects.
  install(FILES "${PROJECT_SOURCE_DIR}/tests/state/component_suite.h" DESTINATION "${hvsdk_testing}/tests/state")
  install(FILES "${PROJECT_SOURCE_DIR}/tests/random_seed.h" DESTINATION "${hvsdk_testing}/tests")
endfunction()
