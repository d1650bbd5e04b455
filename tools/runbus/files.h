#pragma once

#include <sys/types.h>

#include <cstddef>
#include <string>
#include <string_view>

#include "proto/support/error.h"

// Small files of the operator's: tokens, keys, addresses. Errors carry a text for people in
// `detail`.
namespace runbus::cli {

// An error of the command line tool itself, for people to read.
inline Error failure(std::string text) { return make_error(ErrorCode::kInternal, std::move(text)); }

// "text: reason" with the reason of `number`, an errno.
Error failure_of_system(const std::string& text, int number);

// The whole file; refused when it is longer than `limit`.
Result<std::string> read_file(const std::string& path, std::size_t limit);

// Replaces the file in one step: a reader sees the old content or the new. Its mode is `mode` from
// the start.
Result<void> write_file(const std::string& path, std::string_view content, mode_t mode);

// `text` without white space at its ends.
std::string trimmed(std::string_view text);

// The directory of the running program, where its companions are.
std::string program_directory();

}  // namespace runbus::cli
