#include "tools/runbus/config.h"

#include <toml++/toml.h>

#include <algorithm>
#include <optional>

#include "tools/runbus/files.h"

namespace runbus::cli {
namespace {

constexpr std::size_t kMaxConfigBytes = 1U << 20U;

// The argument that stands for one scalar; nothing when TOML's type has no flag form.
std::optional<std::string> argument(const std::string& name, const toml::node& value) {
  if (const auto* flag = value.as_boolean()) {
    return (flag->get() ? "--" : "--no-") + name;
  }
  if (const auto* text = value.as_string()) {
    return "--" + name + "=" + text->get();
  }
  if (const auto* number = value.as_integer()) {
    return "--" + name + "=" + std::to_string(number->get());
  }
  return std::nullopt;
}

}  // namespace

Result<std::vector<std::string>> read_config(const std::string& path,
                                             const std::vector<std::string>& known) {
  const Result<std::string> text = read_file(path, kMaxConfigBytes);
  if (!text) {
    return text.error();
  }
  toml::table table;
  try {
    table = toml::parse(*text, path);
  } catch (const toml::parse_error& error) {
    return failure(path + ": line " + std::to_string(error.source().begin.line) + ": " +
                   std::string(error.description()));
  }
  std::vector<std::string> arguments;
  for (const auto& [key, value] : table) {
    const std::string where = path + ": line " + std::to_string(value.source().begin.line) + ": ";
    std::string name(key.str());
    std::replace(name.begin(), name.end(), '_', '-');
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      return failure(where + "`runbus up` has no option '" + std::string(key.str()) + "'");
    }
    const toml::array* list = value.as_array();
    const std::size_t count = list == nullptr ? 1 : list->size();
    for (std::size_t i = 0; i < count; ++i) {
      const std::optional<std::string> one =
          argument(name, list == nullptr ? value : *list->get(i));
      if (!one) {
        return failure(where + "'" + std::string(key.str()) +
                       "' must be a string, an integer, true or false");
      }
      arguments.push_back(*one);
    }
  }
  return arguments;
}

}  // namespace runbus::cli
