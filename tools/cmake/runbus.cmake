# Helpers of the runbus build: one library, program or test per call, sources always listed by name.
find_package(Threads REQUIRED)
find_package(Boost 1.81 REQUIRED)
find_package(Protobuf REQUIRED)
find_package(spdlog REQUIRED)
find_package(GTest REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(ZMQ REQUIRED IMPORTED_TARGET libzmq)

find_program(RUNBUS_CCACHE ccache)
if(RUNBUS_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_BASEDIR=${CMAKE_SOURCE_DIR}
      CCACHE_NOHASHDIR=1 ${RUNBUS_CCACHE})
endif()
find_program(RUNBUS_LLD ld.lld)
if(RUNBUS_LLD)
  add_link_options(-fuse-ld=lld)
endif()

# What every unit of ours is compiled with; third-party and generated code is not.
add_library(runbus_options INTERFACE)
target_include_directories(runbus_options INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_definitions(runbus_options INTERFACE
  RUNBUS_VERSION="${PROJECT_VERSION}"
  BOOST_ASIO_NO_DEPRECATED BOOST_ASIO_SEPARATE_COMPILATION BOOST_BEAST_SEPARATE_COMPILATION
  RAPIDJSON_HAS_STDSTRING=1)
target_compile_options(runbus_options INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion -Wold-style-cast
  -Wnon-virtual-dtor -Woverloaded-virtual -Wformat=2 -Wextra-semi
  $<$<CXX_COMPILER_ID:GNU>:-Wsuggest-override -Wduplicated-cond -Wlogical-op
    -Wno-maybe-uninitialized -Wno-restrict>
  # RapidJSON's iterators are older than the reversed comparisons of C++20.
  $<$<CXX_COMPILER_ID:Clang>:-Wno-ambiguous-reversed-operator>)
if(RUNBUS_WERROR)
  target_compile_options(runbus_options INTERFACE -Werror)
endif()

include(sanitizers)

# How much longer a test may take than in the release build: the one place that knows.
set(RUNBUS_TEST_SLOWDOWN 1)
if(RUNBUS_SANITIZE)
  set(RUNBUS_TEST_SLOWDOWN 3)
endif()

# The properties that every test has.
function(runbus_test_properties name label timeout)
  math(EXPR timeout "${timeout} * ${RUNBUS_TEST_SLOWDOWN}")
  set_tests_properties(${name} PROPERTIES LABELS ${label} TIMEOUT ${timeout} ENVIRONMENT
    "RUNBUS_SOURCE_DIR=${CMAKE_SOURCE_DIR};RUNBUS_BINARY_DIR=${CMAKE_BINARY_DIR};RUNBUS_TEST_SLOWDOWN=${RUNBUS_TEST_SLOWDOWN}")
  if(RUNBUS_SANITIZER_REPORTS)
    set_tests_properties(${name} PROPERTIES FIXTURES_REQUIRED sanitizer_reports)
  endif()
endfunction()

# runbus_library(NAME SOURCES a.cc ... [DEPENDS target ...]): a static library of our own code.
function(runbus_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_link_libraries(${name} PUBLIC runbus_options ${ARG_DEPENDS})
endfunction()

# runbus_program(NAME SOURCES ... [DEPENDS ...]): an executable in bin/.
function(runbus_program name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE runbus_options ${ARG_DEPENDS})
  runbus_sanitized(${name})
endfunction()

# runbus_test(NAME KIND unit|integration SOURCES ... [DEPENDS ...] [TIMEOUT seconds]):
# a GoogleTest program, one ctest entry, labelled with its kind.
function(runbus_test name)
  cmake_parse_arguments(ARG "" "KIND;TIMEOUT" "SOURCES;DEPENDS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE runbus_options ${ARG_DEPENDS} GTest::gmock_main)
  runbus_sanitized(${name})
  add_test(NAME ${name} COMMAND ${name})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  runbus_test_properties(${name} ${ARG_KIND} ${ARG_TIMEOUT})
endfunction()

# runbus_pytest(NAME FILE test_x.py [TIMEOUT seconds]): a Python test of the running system.
function(runbus_pytest name)
  cmake_parse_arguments(ARG "" "FILE;TIMEOUT;LABEL" "" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  if(NOT ARG_LABEL)
    set(ARG_LABEL integration)
  endif()
  add_test(NAME ${name}
    COMMAND /usr/bin/python3 -B -m pytest -q -x -p no:cacheprovider ${CMAKE_CURRENT_SOURCE_DIR}/${ARG_FILE})
  runbus_test_properties(${name} ${ARG_LABEL} ${ARG_TIMEOUT})
  set_tests_properties(${name} PROPERTIES RUN_SERIAL TRUE)
endfunction()

# runbus_fuzz(NAME SOURCES ... CORPUS dir [DEPENDS ...]): a libFuzzer target, run for a second by ctest.
function(runbus_fuzz name)
  cmake_parse_arguments(ARG "" "CORPUS" "SOURCES;DEPENDS" ${ARGN})
  if(NOT RUNBUS_FUZZ)
    return()
  endif()
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE runbus_options ${ARG_DEPENDS})
  target_link_options(${name} PRIVATE -fsanitize=fuzzer)
  if(NOT TARGET runbus_fuzzers)
    add_custom_target(runbus_fuzzers)
  endif()
  add_dependencies(runbus_fuzzers ${name})
  file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/corpus/${name})
  add_test(NAME ${name} COMMAND ${name} -max_total_time=1 -rss_limit_mb=2048 -timeout=10
    ${CMAKE_BINARY_DIR}/corpus/${name} ${CMAKE_CURRENT_SOURCE_DIR}/${ARG_CORPUS})
  set_tests_properties(${name} PROPERTIES LABELS fuzz TIMEOUT 120)
endfunction()
