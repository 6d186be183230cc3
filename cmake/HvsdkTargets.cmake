# Functions that declare hvsdk's libraries, tests, fuzz targets and benchmarks in one way.

find_program(HVSDK_CCACHE ccache)
if(HVSDK_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER AND PROJECT_IS_TOP_LEVEL)
  set(CMAKE_CXX_COMPILER_LAUNCHER "${HVSDK_CCACHE}")
  if(HVSDK_PRECOMPILE)
    # What ccache wants before it trusts a precompiled header (its manual, "Precompiled headers").
    set(CMAKE_CXX_COMPILER_LAUNCHER
      "${CMAKE_COMMAND}" -E env CCACHE_SLOPPINESS=pch_defines,time_macros "${HVSDK_CCACHE}")
  endif()
endif()

# Warnings and sanitizers of our own builds; never exported to a consumer.
add_library(hvsdk_private_flags INTERFACE)
target_compile_options(hvsdk_private_flags INTERFACE
  -Wall -Wextra -Wno-sign-compare -Wno-missing-field-initializers
  $<$<BOOL:${HVSDK_WERROR}>:-Werror>)
if(HVSDK_SANITIZE)
  add_compile_options(-fsanitize=${HVSDK_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${HVSDK_SANITIZE})
  if(HVSDK_SANITIZE MATCHES "thread" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # Fences that order a store before a load of another word synchronise no data; that TSan does not model them is harmless.
    add_compile_options(-Wno-tsan)
  endif()
endif()

if(HVSDK_BUILD_FUZZERS)
  # A fuzzer learns from the branches of the libraries, too.
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()

set_property(GLOBAL PROPERTY HVSDK_LIBRARIES "")

# hvsdk_precompile(NAME LIBRARY... HEADERS header...): half of what a compiler reads are headers that never change; with
# HVSDK_PRECOMPILE it reads them once.
function(hvsdk_precompile name)
  cmake_parse_arguments(arg "" "" "HEADERS" ${ARGN})
  if(NOT HVSDK_PRECOMPILE)
    return()
  endif()
  file(CONFIGURE OUTPUT "${PROJECT_BINARY_DIR}/${name}.cc" CONTENT "")
  add_library(${name} OBJECT EXCLUDE_FROM_ALL "${PROJECT_BINARY_DIR}/${name}.cc")
  target_link_libraries(${name} PRIVATE hvsdk_private_flags ${arg_UNPARSED_ARGUMENTS})
  target_compile_features(${name} PRIVATE cxx_std_20)
  target_compile_options(${name} PRIVATE $<$<CXX_COMPILER_ID:GNU>:-fpch-preprocess>)
  target_precompile_headers(${name} PRIVATE
    <algorithm> <array> <atomic> <chrono> <cstring> <deque> <functional> <map> <memory> <mutex> <random> <set> <string>
    <thread> <utility> <vector>
    <absl/status/status.h> <absl/status/statusor.h> <absl/strings/str_format.h> <absl/types/span.h> ${arg_HEADERS})
endfunction()

# hvsdk_reuse_precompiled(TARGET NAME): what NAME has precompiled serves TARGET, whose compiler options are the same.
function(hvsdk_reuse_precompiled target name)
  if(HVSDK_PRECOMPILE)
    target_compile_options(${target} PRIVATE $<$<CXX_COMPILER_ID:GNU>:-fpch-preprocess>)
    target_precompile_headers(${target} REUSE_FROM ${name})
  endif()
endfunction()

# Call each before any folder that declares a library, or a test.
function(hvsdk_library_headers)
  hvsdk_precompile(hvsdk_library_headers absl::statusor absl::str_format absl::any_invocable
    HEADERS <absl/strings/str_cat.h> <absl/functional/any_invocable.h>)
endfunction()
function(hvsdk_test_headers)
  hvsdk_precompile(hvsdk_test_headers absl::statusor absl::str_format GTest::gmock HEADERS <gmock/gmock.h> <gtest/gtest.h>)
  if(HVSDK_PRECOMPILE AND HVSDK_SANITIZE MATCHES "undefined")
    target_compile_options(hvsdk_test_headers PRIVATE -fno-sanitize=undefined)  # as hvsdk_compile_test has it
  endif()
endfunction()

# hvsdk_compile_test(TARGET LIBRARY...): compiles a test of the libraries as tests are. What UndefinedBehaviorSanitizer
# adds to a test itself takes a third of its compilation and watches the test more than what it tests; so it goes into
# libraries, and into tests of those that are headers alone.
function(hvsdk_compile_test target)
  set(plain TRUE)
  if(HVSDK_SANITIZE MATCHES "undefined")
    set(plain FALSE)
    foreach(library IN LISTS ARGN)
      if(TARGET ${library})
        get_target_property(type ${library} TYPE)
        get_target_property(imported ${library} IMPORTED)
        if(type STREQUAL "STATIC_LIBRARY" AND NOT imported)
          set(plain TRUE)
        endif()
      endif()
    endforeach()
    if(plain)
      target_compile_options(${target} PRIVATE -fno-sanitize=undefined)
    endif()
  endif()
  if(plain)
    hvsdk_reuse_precompiled(${target} hvsdk_test_headers)
  endif()
endfunction()

# hvsdk_compile_apart(SOURCE OPTION...): a source with compiler options of its own.
function(hvsdk_compile_apart source)
  set_source_files_properties("${source}" PROPERTIES COMPILE_OPTIONS "${ARGN}" SKIP_PRECOMPILE_HEADERS ON)
endfunction()

# hvsdk_compile_alone(SOURCE...): where sources are compiled many at a time (CMAKE_UNITY_BUILD, as the sanitizers' presets have it), these are
# not: they give names of their own to what others of their library have under the same.
function(hvsdk_compile_alone)
  set_source_files_properties(${ARGN} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
endfunction()

# hvsdk_uses_header(TARGET HEADER MACRO WITHOUT): a library that the target loads when it is wanted, so that its header is all that is needed
# to build; MACRO is defined where that is there, and WITHOUT says what there is not elsewhere.
function(hvsdk_uses_header target header macro without)
  find_path(${macro}_HEADER ${header})
  if(${macro}_HEADER)
    target_compile_definitions(${target} PRIVATE ${macro})
  else()
    message(STATUS "${header} is not there: ${without}")
  endif()
endfunction()

# What the sanitizers' builds need: every test program that runs without KVM, and those of several threads.
add_custom_target(hvsdk_unit_tests)
add_custom_target(hvsdk_thread_tests)

# hvsdk_library(NAME [SOURCES file...] [DEPS target...] [PRIVATE_DEPS target...])
#
# Declares the library target hvsdk_NAME, its alias hvsdk::NAME, and installs it. A library without
# SOURCES is header-only.
function(hvsdk_library name)
  cmake_parse_arguments(arg "" "" "SOURCES;DEPS;PRIVATE_DEPS" ${ARGN})
  if(arg_SOURCES)
    add_library(hvsdk_${name} STATIC ${arg_SOURCES})
    set(scope PUBLIC)
    target_link_libraries(hvsdk_${name} PRIVATE $<BUILD_INTERFACE:hvsdk_private_flags>)
    foreach(dependency IN LISTS arg_PRIVATE_DEPS)
      hvsdk_archive_of(${dependency} archive)
      target_link_libraries(hvsdk_${name} PRIVATE ${archive})
    endforeach()
    target_include_directories(hvsdk_${name} PRIVATE "${PROJECT_SOURCE_DIR}/src")
    hvsdk_reuse_precompiled(hvsdk_${name} hvsdk_library_headers)
  else()
    add_library(hvsdk_${name} INTERFACE)
    set(scope INTERFACE)
  endif()
  add_library(hvsdk::${name} ALIAS hvsdk_${name})
  target_compile_features(hvsdk_${name} ${scope} cxx_std_20)
  target_include_directories(hvsdk_${name} ${scope}
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
    $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  target_link_libraries(hvsdk_${name} ${scope} ${arg_DEPS})
  set_property(GLOBAL APPEND PROPERTY HVSDK_LIBRARIES hvsdk::${name})
  hvsdk_component(${name} ${arg_DEPS} ${arg_PRIVATE_DEPS})
endfunction()

# hvsdk_test(NAME SOURCES file... [DEPS target...] [LABELS label...] [TIMEOUT seconds])
#
# A GoogleTest program; ctest sees it as one test. LABELS: `threads` puts it in the ThreadSanitizer run,
# `kvm` runs it through scripts/nested where the processor has no hardware virtualisation. A program that cannot
# test anything here ends with exit status 77 and is reported skipped.
function(hvsdk_test name)
  cmake_parse_arguments(arg "" "TIMEOUT" "SOURCES;DEPS;LABELS" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE hvsdk_private_flags ${arg_DEPS} GTest::gmock GTest::gtest GTest::gtest_main)
  target_include_directories(${name} PRIVATE "${PROJECT_SOURCE_DIR}" "${PROJECT_SOURCE_DIR}/src")
  hvsdk_compile_test(${name} ${arg_DEPS})
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 300)
  endif()
  if("kvm" IN_LIST arg_LABELS)
    add_test(NAME ${name}
      COMMAND "${PROJECT_SOURCE_DIR}/scripts/with-kvm" --timeout=${arg_TIMEOUT} $<TARGET_FILE:${name}>)
    math(EXPR arg_TIMEOUT "${arg_TIMEOUT} + 60")
    set_tests_properties(${name} PROPERTIES PROCESSORS 2 RESOURCE_LOCK kvm)
  else()
    add_test(NAME ${name} COMMAND ${name})
    add_dependencies(hvsdk_unit_tests ${name})
    list(APPEND arg_LABELS unit)
    if("threads" IN_LIST arg_LABELS)
      add_dependencies(hvsdk_thread_tests ${name})
    endif()
  endif()
  set_tests_properties(${name} PROPERTIES
    LABELS "${arg_LABELS}" TIMEOUT ${arg_TIMEOUT} SKIP_RETURN_CODE 77)
endfunction()

# hvsdk_fuzz(NAME SOURCES file... [DEPS target...])
#
# SOURCES define LLVMFuzzerTestOneInput. With HVSDK_BUILD_FUZZERS the libFuzzer program NAME is built; always, the
# same sources and a small driver become a test that runs every file of fuzz/corpus/NAME.
function(hvsdk_fuzz name)
  cmake_parse_arguments(arg "" "" "SOURCES;DEPS" ${ARGN})
  if(HVSDK_BUILD_FUZZERS)
    add_executable(${name} ${arg_SOURCES})
    target_compile_options(${name} PRIVATE -fsanitize=fuzzer)
    target_link_options(${name} PRIVATE -fsanitize=fuzzer)
    target_link_libraries(${name} PRIVATE hvsdk_private_flags ${arg_DEPS})
    target_include_directories(${name} PRIVATE "${PROJECT_SOURCE_DIR}" "${PROJECT_SOURCE_DIR}/src")
  endif()
  if(HVSDK_BUILD_TESTS)
    add_executable(${name}_corpus ${arg_SOURCES} "${PROJECT_SOURCE_DIR}/fuzz/corpus_main.cc")
    target_link_libraries(${name}_corpus PRIVATE hvsdk_private_flags ${arg_DEPS})
    target_include_directories(${name}_corpus PRIVATE "${PROJECT_SOURCE_DIR}" "${PROJECT_SOURCE_DIR}/src")
    hvsdk_reuse_precompiled(${name}_corpus hvsdk_library_headers)
    add_test(NAME ${name}_corpus COMMAND ${name}_corpus "${PROJECT_SOURCE_DIR}/fuzz/corpus/${name}")
    set_tests_properties(${name}_corpus PROPERTIES LABELS unit TIMEOUT 300)
    add_dependencies(hvsdk_unit_tests ${name}_corpus)
  endif()
endfunction()

# hvsdk_benchmark(NAME SOURCES file... [DEPS target...])
function(hvsdk_benchmark name)
  cmake_parse_arguments(arg "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE hvsdk_private_flags ${arg_DEPS} benchmark::benchmark benchmark::benchmark_main)
  target_include_directories(${name} PRIVATE "${PROJECT_SOURCE_DIR}" "${PROJECT_SOURCE_DIR}/src")
  hvsdk_reuse_precompiled(${name} hvsdk_library_headers)
endfunction()
