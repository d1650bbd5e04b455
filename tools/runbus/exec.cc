#include <filesystem>
#include <map>
#include <sstream>

#include "proto/support/id.h"
#include "proto/wire/transcoder.h"
#include "tools/runbus/commands.h"
#include "tools/runbus/files.h"
#include "tools/runbus/follow.h"

namespace runbus::cli {
namespace {

constexpr std::size_t kMaxCodeBytes = 8U << 20U;

void add(std::string& json, const char* name, std::string_view value) {
  json.append(json.size() > 1 ? ",\"" : "\"").append(name).append("\":");
  wire::append_json_string(value, json);
}

std::string params_of(const ExecOptions& options, const std::string& language,
                      const std::string& code, const std::string& execution) {
  std::string json = "{";
  add(json, "code", code);
  add(json, "language", language);
  add(json, "execution_id", execution);
  if (!options.session.empty()) {
    add(json, "session_id", options.session);
  }
  json += ",\"args\":[";
  for (std::size_t i = 0; i < options.arguments.size(); ++i) {
    json += i == 0 ? "" : ",";
    wire::append_json_string(options.arguments[i], json);
  }
  json += "]";
  if (options.timeout) {
    std::ostringstream number;
    number << *options.timeout;
    json += ",\"config\":{\"timeout\":" + number.str() + "}";
  }
  return json + "}";
}

}  // namespace

std::string language_of(const std::string& file) {
  static const std::map<std::string, std::string> kLanguages{{".py", "python"},
                                                             {".js", "javascript"},
                                                             {".mjs", "javascript"},
                                                             {".cjs", "javascript"},
                                                             {".ts", "typescript"},
                                                             {".sh", "bash"},
                                                             {".bash", "bash"},
                                                             {".c", "c"},
                                                             {".cc", "cpp"},
                                                             {".cpp", "cpp"},
                                                             {".cxx", "cpp"},
                                                             {".go", "go"},
                                                             {".rs", "rust"},
                                                             {".rb", "ruby"},
                                                             {".pl", "perl"},
                                                             {".lua", "lua"},
                                                             {".php", "php"},
                                                             {".java", "java"},
                                                             {".r", "r"},
                                                             {".R", "r"}};
  const auto found = kLanguages.find(std::filesystem::path(file).extension().string());
  return found == kLanguages.end() ? std::string() : found->second;
}

int exec(const ExecOptions& options) {
  if (!options.code && options.file.empty()) {
    return complain(failure("no program: give -c CODE or a FILE"), 2);
  }
  std::string language = options.language.empty() ? language_of(options.file) : options.language;
  if (language.empty() && !options.code && options.file != "-") {
    return complain(failure("cannot tell the language of " + options.file + ": name it with -l"),
                    2);
  }
  if (language.empty()) {
    language = "python";
  }
  const bool code_is_stdin = !options.code && options.file == "-";
  Result<std::string> code =
      options.code ? *options.code
                   : read_file(code_is_stdin ? "/dev/stdin" : options.file, kMaxCodeBytes);
  if (!code) {
    return complain(code.error(), kRunbusFailed);
  }
  Result<GatewayAddress> gateway = find_gateway(options.gateway);
  if (!gateway) {
    return complain(gateway.error(), kRunbusFailed);
  }
  const std::string execution = make_uuid();
  return Follow({.gateway = std::move(*gateway),
                 .execution = execution,
                 .session = options.session,
                 .start = params_of(options, language, *code, execution),
                 .offset = 0,
                 .forward_stdin = true,
                 .json = options.json})
      .run();
}

int attach(const AttachOptions& options) {
  Result<GatewayAddress> gateway = find_gateway(options.gateway);
  if (!gateway) {
    return complain(gateway.error(), kRunbusFailed);
  }
  return Follow({.gateway = std::move(*gateway),
                 .execution = options.execution,
                 .session = options.session,
                 .start = std::nullopt,
                 .offset = options.offset,
                 .forward_stdin = false,
                 .json = options.json})
      .run();
}

}  // namespace runbus::cli
