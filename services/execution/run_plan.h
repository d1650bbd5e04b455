#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "proto/support/error.h"
#include "runbus/v1/agent.pb.h"
#include "runbus/v1/execution.pb.h"
#include "services/execution/languages.h"

namespace runbus::execution {

// What one call asks for, checked. Nothing here trusts the request: every count and size has a
// bound, and what is wrong is named with its path ("config.timeout: ...").
struct RunPlan {
  std::string execution_id;
  std::string session_id;
  std::string language;                                    // the table's name
  std::vector<std::pair<std::string, std::string>> files;  // path, content; the code is the last
  bool has_user_files = false;
  runbus::v1::agent::Spawn spawn;  // without the session's share: environment, limits
  std::uint64_t max_output = 0;    // of each of stdout and stderr, collected
  bool network = false;
};

inline constexpr double kDefaultTimeout = 30;
inline constexpr double kMaxTimeout = 3600;
inline constexpr std::uint64_t kDefaultMaxOutput = 1U << 20U;
inline constexpr std::uint64_t kMaxMaxOutput = 8U << 20U;
inline constexpr int kMaxFiles = 1000;
inline constexpr std::uint64_t kMaxFileBytes = 16U << 20U;
inline constexpr std::size_t kMaxEnvironment = 128U << 10U;
inline constexpr int kMaxArguments = 1024;
inline constexpr std::size_t kMaxArgumentBytes = 128U << 10U;

// Checks names and sizes of an environment; `where` is its path in the request.
Result<void> check_environment(const google::protobuf::Map<std::string, std::string>& environment,
                               const std::string& where);

// Checks all but the language, so that a bad request is refused before anything is looked up.
// kValidation.
Result<void> check_request(const v1::CodeRequest& request);

// `run` is a short name that no other running execution of the session has. The request has passed
// check_request.
RunPlan make_plan(const v1::CodeRequest& request, const Language& language, std::string_view run,
                  bool streaming);

// The environment of a step: the base, then the language's, the session's and the call's, the later
// ones over the earlier ones.
std::vector<std::string> environment_of(const Language& language, const std::string& workspace,
                                        const std::map<std::string, std::string>& session,
                                        const v1::Config& config);

// SHA-256 over what the call asks for; the same for every session, method and spelling of the
// language. Two calls with one execution id are one execution when it is equal.
std::string fingerprint(const v1::CodeRequest& request);

// What the agent keeps with an execution for whoever asks later.
struct Tag {
  std::string language;
  std::string fingerprint;
};
std::string encode_tag(const Tag& tag);
// Reads what an agent says; anything odd is left empty.
Tag decode_tag(std::string_view bytes);

// A path below the workspace in its plain form ("a/./b" is "a/b"). kValidation naming `where`.
Result<std::string> check_path(std::string_view path, std::string_view where);

}  // namespace runbus::execution
