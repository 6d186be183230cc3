# What hvsdk is built on. Our own programs link static archives where the packages have them: fewer libraries to load and
# relocate make a quicker start and a process of half the size. The installed libraries name only targets, so whoever uses
# them decides for themselves.

find_package(absl REQUIRED)
find_package(Protobuf REQUIRED)
find_package(Threads REQUIRED)

# hvsdk_prefer_archives(REGEX): the imported targets that match stand for the archives beside their shared libraries, which is
# all that Debian's packages offer to CMake.
function(hvsdk_prefer_archives regex)
  get_property(targets DIRECTORY PROPERTY IMPORTED_TARGETS)
  list(FILTER targets INCLUDE REGEX "${regex}")
  foreach(target IN LISTS targets)
    get_target_property(configurations ${target} IMPORTED_CONFIGURATIONS)
    list(TRANSFORM configurations PREPEND IMPORTED_LOCATION_)
    foreach(property IN ITEMS IMPORTED_LOCATION LISTS configurations)
      get_target_property(location ${target} ${property})
      string(REGEX REPLACE "\\.so[0-9.]*$" ".a" archive "${location}")
      if(location AND EXISTS "${archive}")
        set_target_properties(${target} PROPERTIES ${property} "${archive}")
      endif()
    endforeach()
  endforeach()
endfunction()
hvsdk_prefer_archives("^absl::|^protobuf::libprotobuf")

# hvsdk_archive_of(LIBRARY OUT): what our own programs link for a library that is no imported target.
function(hvsdk_archive_of library out)
  set(${out} ${library} PARENT_SCOPE)
  if(library MATCHES "::")
    return()
  endif()
  find_library(HVSDK_ARCHIVE_${library} NAMES lib${library}.a)
  mark_as_advanced(HVSDK_ARCHIVE_${library})
  if(HVSDK_ARCHIVE_${library})
    set(${out} $<BUILD_INTERFACE:${HVSDK_ARCHIVE_${library}}> $<INSTALL_INTERFACE:${library}> PARENT_SCOPE)
  endif()
endfunction()
