# Builds with sanitizers (RUNBUS_SANITIZE): what is instrumented and where reports go.
# Without it, and in the fuzzers' build, runbus_sanitized() does nothing.
if(NOT RUNBUS_SANITIZE)
  function(runbus_sanitized target)
  endfunction()
  function(runbus_unsanitized target)
  endfunction()
  return()
endif()

add_compile_options(-fsanitize=${RUNBUS_SANITIZE})
add_link_options(-fsanitize=${RUNBUS_SANITIZE})
if(RUNBUS_SANITIZE MATCHES undefined)
  # RapidJSON 1.1 adds to a null pointer when its stack is new.
  add_compile_options(-fno-sanitize-recover=undefined -fno-sanitize=pointer-overflow)
endif()
if(RUNBUS_SANITIZE MATCHES undefined AND CMAKE_CXX_COMPILER_ID STREQUAL GNU)
  # One run-time for both: as two shared objects UndefinedBehaviorSanitizer's would not find the folder of reports.
  add_link_options(-static-libasan -static-libubsan)
  # Half of the compiler's time, spent on every access in every header; the fuzzers' build has them on the parsers.
  add_compile_options(-fno-sanitize=null,alignment)
endif()
if(RUNBUS_SANITIZE MATCHES thread)
  # Fences are what ThreadSanitizer does not know; Asio's locks it does.
  add_compile_definitions(BOOST_ASIO_DISABLE_FENCED_BLOCK)
  add_compile_options(-include ${CMAKE_SOURCE_DIR}/tests/sanitizers/thread.h)
endif()

# runbus_unsanitized(TARGET): all of the target is built and linked without.
function(runbus_unsanitized target)
  target_compile_options(${target} PRIVATE -fno-sanitize=all)
  get_target_property(type ${target} TYPE)
  if(type MATCHES "EXECUTABLE|MODULE_LIBRARY")
    target_link_options(${target} PRIVATE -fno-sanitize=all)
  endif()
endfunction()

if(RUNBUS_FUZZ)
  function(runbus_sanitized target)
  endfunction()
  return()
endif()

# A report is a file in here, whichever process made it; the test sanitizer_reports fails if there is one.
set(RUNBUS_SANITIZER_REPORTS ${CMAKE_BINARY_DIR}/sanitizer-reports)

# Every program brings its options and suppressions: no environment can lose them.
add_library(runbus_sanitizer_options OBJECT ${CMAKE_SOURCE_DIR}/tests/sanitizers/options.cc)
target_compile_definitions(runbus_sanitizer_options PRIVATE
  RUNBUS_SANITIZER_REPORTS="${RUNBUS_SANITIZER_REPORTS}")
runbus_unsanitized(runbus_sanitizer_options)

# runbus_sanitized(TARGET): a program of ours.
function(runbus_sanitized target)
  target_sources(${target} PRIVATE $<TARGET_OBJECTS:runbus_sanitizer_options>)
endfunction()

# Every test of the suite stands between these two.
add_test(NAME sanitizer_reports_cleared
  COMMAND ${CMAKE_SOURCE_DIR}/tests/sanitizers/reports clear ${RUNBUS_SANITIZER_REPORTS})
add_test(NAME sanitizer_reports
  COMMAND ${CMAKE_SOURCE_DIR}/tests/sanitizers/reports show ${RUNBUS_SANITIZER_REPORTS})
set_tests_properties(sanitizer_reports_cleared PROPERTIES FIXTURES_SETUP sanitizer_reports)
set_tests_properties(sanitizer_reports PROPERTIES FIXTURES_CLEANUP sanitizer_reports)
