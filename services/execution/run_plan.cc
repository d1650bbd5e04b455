#include "services/execution/run_plan.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include <algorithm>
#include <cmath>

#include "proto/support/id.h"
#include "proto/support/log.h"
#include "services/session/digest.h"

namespace runbus::execution {
namespace {

constexpr std::size_t kMaxPath = 4000;
constexpr std::size_t kMaxName = 255;

Error invalid(std::string detail) { return make_error(ErrorCode::kValidation, std::move(detail)); }

Error over_limit(std::string detail, std::string limit) {
  Error error = invalid(std::move(detail));
  error.limit = std::move(limit);
  return error;
}

bool is_environment_name(std::string_view name) {
  const auto is_word = [](char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
  };
  return !name.empty() && name.size() <= kMaxName && !(name[0] >= '0' && name[0] <= '9') &&
         std::all_of(name.begin(), name.end(), is_word);
}

bool has_zero(std::string_view text) { return text.find('\0') != std::string_view::npos; }

Result<void> check_files(const v1::CodeRequest& request) {
  if (request.files_size() > kMaxFiles) {
    return over_limit("files: at most " + std::to_string(kMaxFiles), "files");
  }
  std::uint64_t total = 0;
  for (int index = 0; index < request.files_size(); ++index) {
    const v1::File& file = request.files(index);
    const std::string where = "files[" + std::to_string(index) + "].path";
    if (auto path = check_path(file.path(), where); !path) {
      return path.error();
    }
    total += file.text().size() + file.data().size();
  }
  if (total + request.code().size() > kMaxFileBytes) {
    return over_limit("files: at most 16 MiB with the code", "file_bytes");
  }
  return {};
}

Result<void> check_arguments(const v1::CodeRequest& request) {
  if (request.args_size() > kMaxArguments) {
    return over_limit("args: at most " + std::to_string(kMaxArguments), "args");
  }
  std::size_t total = 0;
  for (int index = 0; index < request.args_size(); ++index) {
    total += request.args(index).size() + 1;
    if (has_zero(request.args(index))) {
      return invalid("args[" + std::to_string(index) + "]: has a zero byte");
    }
  }
  if (total > kMaxArgumentBytes) {
    return over_limit("args: at most 128 KiB in all", "args");
  }
  return {};
}

Result<void> check_config(const v1::Config& config) {
  if (config.has_timeout() && !(config.timeout() > 0 && config.timeout() <= kMaxTimeout)) {
    return invalid("config.timeout: must be more than 0 and at most 3600 seconds");
  }
  if (config.max_output_size() > kMaxMaxOutput) {
    return over_limit("config.max_output_size: at most " + std::to_string(kMaxMaxOutput) +
                          " bytes; execute.code_streaming has no such bound",
                      "max_output_size");
  }
  if (config.has_max_memory() && config.max_memory() < (1U << 20U)) {
    return invalid("config.max_memory: at least 1048576 bytes");
  }
  if (config.has_max_processes() && config.max_processes() == 0) {
    return invalid("config.max_processes: at least 1");
  }
  if (!config.network().empty() && config.network() != "none" && config.network() != "full") {
    return invalid("config.network: \"none\" or \"full\"");
  }
  if (!config.working_directory().empty() && config.working_directory() != ".") {
    if (auto path = check_path(config.working_directory(), "config.working_directory"); !path) {
      return path.error();
    }
  }
  return check_environment(config.environment(), "config.environment");
}

std::string replace_all(std::string text, std::string_view what, std::string_view with) {
  for (std::size_t at = text.find(what); at != std::string::npos;
       at = text.find(what, at + with.size())) {
    text.replace(at, what.size(), with);
  }
  return text;
}

std::string without_extension(const std::string& path) {
  const std::size_t dot = path.rfind('.');
  const std::size_t slash = path.rfind('/');
  const bool has = dot != std::string::npos && (slash == std::string::npos || dot > slash + 1);
  return has ? path.substr(0, dot) : path;
}

// The way from a directory below the workspace up to it.
std::string way_up(const std::string& directory) {
  std::string way;
  if (!directory.empty()) {
    way = "../";
    for (const char c : directory) {
      if (c == '/') {
        way += "../";
      }
    }
  }
  return way;
}

void add_steps(const Language& language, const std::string& source, const std::string& output,
               RunPlan& plan) {
  for (const std::vector<std::string>* argv : {&language.compile, &language.run}) {
    if (argv->empty()) {
      continue;
    }
    auto* step = plan.spawn.add_steps();
    for (const std::string& word : *argv) {
      std::string filled = replace_all(word, "{output}", output);
      filled = replace_all(std::move(filled), "{stem}", without_extension(source));
      step->add_argv(replace_all(std::move(filled), "{source}", source));
    }
  }
}

}  // namespace

Result<std::string> check_path(std::string_view path, std::string_view where) {
  if (path.empty() || path.size() > kMaxPath || has_zero(path)) {
    return invalid(std::string(where) + ": must have 1 to 4000 bytes, none of them zero");
  }
  if (path.front() == '/') {
    return invalid(std::string(where) + ": must be relative to the workspace");
  }
  std::string plain;
  while (!path.empty()) {
    const std::size_t slash = std::min(path.find('/'), path.size());
    const std::string_view part = path.substr(0, slash);
    path.remove_prefix(std::min(slash + 1, path.size()));
    if (part.empty() || part == ".") {
      continue;
    }
    if (part == "..") {
      return invalid(std::string(where) + ": must not have \"..\"");
    }
    if (part.size() > kMaxName) {
      return invalid(std::string(where) + ": a name has more than 255 bytes");
    }
    plain += (plain.empty() ? "" : "/") + std::string(part);
  }
  if (plain.empty()) {
    return invalid(std::string(where) + ": names no file");
  }
  return plain;
}

Result<void> check_environment(const google::protobuf::Map<std::string, std::string>& environment,
                               const std::string& where) {
  std::size_t total = 0;
  for (const auto& [name, value] : environment) {
    if (!is_environment_name(name)) {
      return invalid(where + ": \"" + printable(name, 64) +
                     "\" is no name of a variable (letters, digits and _)");
    }
    if (has_zero(value)) {
      return invalid(where + "." + name + ": has a zero byte");
    }
    total += name.size() + value.size() + 2;
  }
  if (total > kMaxEnvironment) {
    return over_limit(where + ": at most 128 KiB in all", "environment");
  }
  return {};
}

Result<void> check_request(const v1::CodeRequest& request) {
  if (!is_valid_id(request.execution_id())) {
    return invalid("execution_id: 1 to 128 characters of letters, digits and . _ : -");
  }
  if (!is_valid_id(request.session_id())) {
    return invalid("session_id: 1 to 128 characters of letters, digits and . _ : -");
  }
  if (request.code().empty() && request.entry().empty()) {
    return invalid("No code provided for execution");
  }
  if (!request.code().empty() && !request.entry().empty()) {
    return invalid("entry: give either code or entry");
  }
  if (!request.entry().empty()) {
    if (auto path = check_path(request.entry(), "entry"); !path) {
      return path.error();
    }
  }
  if (request.stdin().size() > kMaxFileBytes) {
    return over_limit("stdin: at most 16 MiB; send more by execute.input", "stdin");
  }
  for (const auto& check :
       {check_files(request), check_arguments(request), check_config(request.config())}) {
    if (!check) {
      return check;
    }
  }
  return {};
}

RunPlan make_plan(const v1::CodeRequest& request, const Language& language, std::string_view run,
                  bool streaming) {
  const v1::Config& config = request.config();
  RunPlan plan;
  plan.execution_id = request.execution_id();
  plan.session_id = request.session_id();
  plan.language = language.name;
  plan.has_user_files = request.files_size() > 0;
  plan.max_output = config.has_max_output_size() ? config.max_output_size() : kDefaultMaxOutput;
  plan.network = config.network() == "full";
  for (const v1::File& file : request.files()) {
    plan.files.emplace_back(*check_path(file.path(), "files"),
                            file.has_text() ? file.text() : file.data());
  }
  // Programs start in the working directory and are named relative to it, which is what tracebacks
  // show.
  const auto checked = check_path(config.working_directory(), "");
  const std::string directory = checked ? *checked : std::string();
  const std::string prefix = directory.empty() ? directory : directory + "/";
  const std::string own = replace_all(language.source, "{run}", run);
  std::string source = own;
  if (request.entry().empty()) {
    plan.files.emplace_back(prefix + own, request.code());
  } else {
    source = way_up(directory) + *check_path(request.entry(), "entry");
  }
  if (source.starts_with('-')) {
    source.insert(0, "./");  // not an option of the interpreter
  }
  add_steps(language, source, "./." + std::string(run) + ".out", plan);
  auto* last = plan.spawn.mutable_steps(plan.spawn.steps_size() - 1);
  for (const std::string& argument : request.args()) {
    last->add_argv(argument);
  }
  last->set_takes_input(streaming || request.has_stdin());
  last->set_warm(language.warm);
  for (auto& step : *plan.spawn.mutable_steps()) {
    step.set_working_directory(directory);
    if (config.has_max_memory() && language.address_space) {
      step.mutable_limits()->set_address_space(config.max_memory());
    }
    if (config.has_max_processes()) {
      step.mutable_limits()->set_processes(config.max_processes());
    }
  }
  const double timeout = config.has_timeout() ? config.timeout() : kDefaultTimeout;
  plan.spawn.set_timeout_ms(static_cast<std::uint64_t>(std::max(1.0, std::ceil(timeout * 1000))));
  plan.spawn.set_execution_id(plan.execution_id);
  plan.spawn.set_tag(encode_tag(Tag{language.name, fingerprint(request)}));
  return plan;
}

std::vector<std::string> environment_of(const Language& language, const std::string& workspace,
                                        const std::map<std::string, std::string>& session,
                                        const v1::Config& config) {
  std::map<std::string, std::string> all = {{"PATH", std::string(kToolPath)},
                                            {"HOME", workspace},
                                            {"LANG", "C.UTF-8"},
                                            {"TMPDIR", "/tmp"},
                                            {"USER", "runbus"},
                                            {"LOGNAME", "runbus"}};
  const auto lay = [&all](const auto& layer) {
    for (const auto& [name, value] : layer) {
      all[name] = value;
    }
  };
  lay(language.environment);
  lay(session);
  lay(config.environment());
  std::vector<std::string> lines;
  for (const auto& [name, value] : all) {
    lines.push_back(name + "=" + value);
  }
  return lines;
}

std::string fingerprint(const v1::CodeRequest& request) {
  v1::CodeRequest bare = request;
  bare.clear_session_id();
  bare.clear_language();  // the tag has its name, whatever alias was written
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);  // the environment is a map
    bare.SerializeToCodedStream(&coded);
  }
  return session::sha256_hex(bytes);
}

std::string encode_tag(const Tag& tag) { return tag.language + "\n" + tag.fingerprint; }

Tag decode_tag(std::string_view bytes) {
  const auto plain = [](std::string_view text, std::size_t limit) {
    const bool good = text.size() <= limit && std::all_of(text.begin(), text.end(), [](char c) {
                        return c > ' ' && c <= '~';
                      });
    return good ? std::string(text) : std::string();
  };
  const std::size_t line = std::min(bytes.find('\n'), bytes.size());
  Tag tag;
  tag.language = plain(bytes.substr(0, line), 64);
  tag.fingerprint = plain(bytes.substr(std::min(line + 1, bytes.size())), 64);
  return tag;
}

}  // namespace runbus::execution
