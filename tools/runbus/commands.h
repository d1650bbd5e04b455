#pragma once

#include <cstdio>
#include <string>

#include "proto/support/error.h"
#include "tools/runbus/arguments.h"

// The subcommands that talk to a gateway or look at this machine, one room each. All return the
// exit code: 0, or 1 after a text on stderr; exec and attach return the program's own, and 125 when
// runbus itself failed.
namespace runbus::cli {

inline constexpr int kRunbusFailed = 125;

int exec(const ExecOptions& options);
int attach(const AttachOptions& options);
int call(const CallOptions& options);
int subscribe(const SubscribeOptions& options);
int workers(const WorkersOptions& options);
int doctor(const DoctorOptions& options);
int keys_new(const KeysNewOptions& options);
int keys_server(const KeysServerOptions& options);
int token(const TokenOptions& options);
int self_check(const SelfCheckOptions& options);

// The language that a file's name tells, or "".
std::string language_of(const std::string& file);

// What a person reads about a failure: of a call, what the gateway said (error_of() puts its
// message into `internal`); else our own words.
inline std::string describe(const Error& error) {
  if (error.detail.empty() || error.internal.empty()) {
    const std::string& text = error.detail.empty() ? error.internal : error.detail;
    return text.empty() ? std::string(catalogue(error.code).message) : text;
  }
  return error.internal + ": " + error.detail;
}

inline int complain(const Error& error, int exit_code = 1) {
  std::fprintf(stderr, "runbus: %s\n", describe(error).c_str());
  return exit_code;
}

}  // namespace runbus::cli
