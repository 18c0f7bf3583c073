# SPDX-License-Identifier: Apache-2.0
#
# The tests and examples, as the BUILD files have them: tools/check_cmake_files.py writes one call of
# a function below for each. A test that needs what is not installed is left out, and the output says
# so. What Bazel alone runs: tests of examples whose data another target makes.
#
#   ctest --test-dir build             every test
#   ctest --test-dir build -L model    a folder of tests/
#   cmake --build build --target weakcache_quick_tests && ctest --test-dir build -L quick

# Tests that compile in seconds and, together, touch every layer.
set(WEAKCACHE_QUICK_TESTS
  cache_stats_test
  race_test
  slot_pages_test
  weak_proxy_no_exceptions_test
  weak_ref_test
  weakref_tour_test)

find_package(Python3 COMPONENTS Interpreter QUIET)
if(NOT Python3_FOUND)
  message(WARNING "weakcache: no Python 3, which reads the list of tests and examples: none is built")
  return()
endif()
set(weakcache_test_files "${PROJECT_BINARY_DIR}/weakcache_test_files.cmake")
execute_process(
  COMMAND "${Python3_EXECUTABLE}" "${PROJECT_SOURCE_DIR}/tools/check_cmake_files.py"
          --tests "${weakcache_test_files}"
  RESULT_VARIABLE weakcache_result)
if(weakcache_result)
  message(FATAL_ERROR "tools/check_cmake_files.py failed")
endif()

# --- What they need --------------------------------------------------------------------------------

# weakcache_need_NAME is what to link for the need NAME, as the BUILD files call it.
find_package(GTest QUIET)
if(TARGET GTest::gmock)
  set(weakcache_need_gtest GTest::gmock)
  set(weakcache_need_gtest_main GTest::gmock_main)
elseif(TARGET GTest::gtest)
  set(weakcache_need_gtest GTest::gtest)
  set(weakcache_need_gtest_main GTest::gtest_main)
endif()
foreach(target absl::flags absl::flags_parse)
  if(TARGET ${target})
    string(REPLACE "::" "_" need ${target})
    set(weakcache_need_${need} ${target})
  endif()
endforeach()
# The optional parts of the library, and what they link.
foreach(name hiredis rocksdb xxhash zstd tier redis_tier rocksdb_tier)
  if(TARGET weakcache::${name})
    set(weakcache_need_${name} weakcache::${name})
  endif()
endforeach()
# Headers only.
foreach(library "boost boost/version.hpp" "relacy relacy/relacy.hpp" "stb stb/stb_image.h")
  separate_arguments(library)
  list(GET library 0 need)
  list(GET library 1 header)
  find_path(WEAKCACHE_${need}_INCLUDE_DIR ${header})
  mark_as_advanced(WEAKCACHE_${need}_INCLUDE_DIR)
  if(WEAKCACHE_${need}_INCLUDE_DIR)
    add_library(weakcache_need_${need} INTERFACE)
    target_include_directories(weakcache_need_${need} SYSTEM INTERFACE
      "${WEAKCACHE_${need}_INCLUDE_DIR}")
    set(weakcache_need_${need} weakcache_need_${need})
  endif()
endforeach()

# Sets `missing` to what of ARG_NEEDS is not installed, and `needed` to what to link for it.
macro(weakcache_find_needs)
  set(missing "")
  set(needed "")
  foreach(need IN LISTS ARG_NEEDS)
    if(weakcache_need_${need})
      list(APPEND needed ${weakcache_need_${need}})
    else()
      list(APPEND missing ${need})
    endif()
  endforeach()
endmacro()

# --- One call for each target ----------------------------------------------------------------------

macro(weakcache_parse)
  cmake_parse_arguments(ARG "" "FOLDER;TIMEOUT;SERIAL"
    "SOURCES;OPTIONS;DEFINES;LINK;NEEDS;HEADERS;ARGUMENTS;DATA;PROGRAMS;LABELS" ${ARGN})
endmacro()

function(weakcache_settings target)
  target_compile_features(${target} PRIVATE cxx_std_20)
  set_target_properties(${target} PROPERTIES CXX_EXTENSIONS OFF)
  # Their own headers are included from the project's root.
  target_include_directories(${target} PRIVATE "${PROJECT_SOURCE_DIR}")
  target_compile_definitions(${target} PRIVATE ${ARG_DEFINES})
  target_compile_options(${target} PRIVATE -Wall -Wextra ${ARG_OPTIONS})
  target_link_libraries(${target} PRIVATE ${ARG_LINK} ${needed} Threads::Threads)
endfunction()

# A library of tests or examples. Its objects are linked as they are: some replace operator new.
function(weakcache_test_library target)
  weakcache_parse(${ARGN})
  weakcache_find_needs()
  if(NOT missing)
    add_library(${target} OBJECT EXCLUDE_FROM_ALL ${ARG_SOURCES})
    weakcache_settings(${target})
  endif()
endfunction()

# Compiles each of some headers alone, as it is and without exceptions and run-time type information.
function(weakcache_headers_alone target)
  weakcache_parse(${ARGN})
  add_library(${target} INTERFACE)
  if(NOT WEAKCACHE_BUILD_TESTS)
    return()
  endif()
  set(sources "")
  foreach(header IN LISTS ARG_HEADERS)
    # Twice: the second time the guard has to hold.
    set(line "#include \"weakcache/${header}\"\n")
    string(REGEX REPLACE "[/.]" "_" source "${header}")
    set(source "${PROJECT_BINARY_DIR}/headers/${source}_alone.cc")
    file(CONFIGURE OUTPUT "${source}" CONTENT "${line}${line}" @ONLY)
    list(APPEND sources "${source}")
  endforeach()
  foreach(suffix "" _no_exceptions)
    add_library(${target}${suffix}_objects OBJECT EXCLUDE_FROM_ALL ${sources})
    target_compile_options(${target}${suffix}_objects PRIVATE -Wall -Wextra)
    target_link_libraries(${target}${suffix}_objects PRIVATE weakcache::weakcache)
    target_sources(${target} INTERFACE $<TARGET_OBJECTS:${target}${suffix}_objects>)
  endforeach()
  target_compile_options(${target}_no_exceptions_objects PRIVATE -fno-exceptions -fno-rtti)
endfunction()

# An example.
function(weakcache_program name)
  weakcache_parse(${ARGN})
  weakcache_find_needs()
  if(missing)
    message(STATUS "weakcache: without ${name}, which needs ${missing}")
    return()
  endif()
  add_executable(${name} ${ARG_SOURCES})
  weakcache_settings(${name})
  # Where its test looks for it.
  set_target_properties(${name} PROPERTIES
    RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/${ARG_FOLDER}")
  if(NOT WEAKCACHE_BUILD_EXAMPLES)
    set_target_properties(${name} PROPERTIES EXCLUDE_FROM_ALL TRUE)
  endif()
endfunction()

function(weakcache_test name)
  weakcache_parse(${ARGN})
  weakcache_find_needs()
  foreach(program IN LISTS ARG_PROGRAMS)
    if(NOT TARGET ${program})
      list(APPEND missing ${program})
    endif()
  endforeach()
  if(NOT WEAKCACHE_BUILD_TESTS)
    return()
  elseif(missing)
    message(STATUS "weakcache: without ${name}, which needs ${missing}")
    return()
  endif()
  add_executable(${name} ${ARG_SOURCES})
  weakcache_settings(${name})
  set_target_properties(${name} PROPERTIES
    RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/${ARG_FOLDER}")
  foreach(file IN LISTS ARG_DATA)
    get_filename_component(folder "${PROJECT_BINARY_DIR}/${file}" DIRECTORY)
    file(MAKE_DIRECTORY "${folder}")
    file(CREATE_LINK "${PROJECT_SOURCE_DIR}/${file}" "${PROJECT_BINARY_DIR}/${file}" SYMBOLIC)
  endforeach()
  if(ARG_PROGRAMS)
    add_dependencies(${name} ${ARG_PROGRAMS})
  endif()
  add_test(NAME ${name} COMMAND ${name} ${ARG_ARGUMENTS}
    WORKING_DIRECTORY "${PROJECT_BINARY_DIR}")
  if(name IN_LIST WEAKCACHE_QUICK_TESTS)
    list(APPEND ARG_LABELS quick)
    add_dependencies(weakcache_quick_tests ${name})
  endif()
  set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT})
  if(ARG_SERIAL)
    # Its threads race: beside another test it is slower and races less.
    set_tests_properties(${name} PROPERTIES RUN_SERIAL TRUE)
  endif()
endfunction()

add_custom_target(weakcache_quick_tests)
include("${weakcache_test_files}")

foreach(name IN LISTS WEAKCACHE_QUICK_TESTS)
  if(WEAKCACHE_BUILD_TESTS AND weakcache_need_gtest AND NOT TARGET ${name})
    message(FATAL_ERROR "WEAKCACHE_QUICK_TESTS names ${name}, which is no test")
  endif()
endforeach()
