#include "services/execution/languages.h"

#define TOML_HEADER_ONLY 0
#include <toml++/toml.h>

#include <set>
#include <sstream>

namespace runbus::execution {
namespace {

Error row_error(std::size_t row, const std::string& what) {
  return make_error(ErrorCode::kValidation,
                    "language table, row " + std::to_string(row) + ": " + what);
}

const std::set<std::string_view> kMembers = {"name",    "aliases",       "source",     "compile",
                                             "run",     "probe",         "warm",       "warm_run",
                                             "preload", "address_space", "environment"};

// Reads one row's members; the first thing that is wrong is kept.
class Row {
 public:
  explicit Row(const toml::table& table) : table_(table) {
    for (const auto& [key, value] : table) {
      if (!kMembers.contains(key.str())) {
        fail(std::string(key.str()) + ": no such member");
      }
    }
  }

  std::string text(std::string_view name, bool required) {
    const toml::node* node = table_.get(name);
    const auto value = node ? node->value_exact<std::string>() : std::nullopt;
    if ((node && !value) || (required && (!value || value->empty()))) {
      fail(std::string(name) + ": expected text");
    }
    return value.value_or("");
  }

  std::vector<std::string> texts(std::string_view name, bool required) {
    std::vector<std::string> values;
    const toml::node* node = table_.get(name);
    if (node && !node->is_array()) {
      fail(std::string(name) + ": expected an array of text");
    } else if (node) {
      for (const toml::node& element : *node->as_array()) {
        const auto value = element.value_exact<std::string>();
        if (!value || value->empty()) {
          fail(std::string(name) + ": expected an array of text");
        }
        values.push_back(value.value_or(""));
      }
    }
    if (required && values.empty()) {
      fail(std::string(name) + ": missing or empty");
    }
    return values;
  }

  bool flag(std::string_view name) {
    const toml::node* node = table_.get(name);
    const auto value = node ? node->value_exact<bool>() : std::nullopt;
    if (node && !value) {
      fail(std::string(name) + ": expected true or false");
    }
    return value.value_or(false);
  }

  std::map<std::string, std::string> table(std::string_view name) {
    std::map<std::string, std::string> values;
    const toml::node* node = table_.get(name);
    if (node && !node->is_table()) {
      fail(std::string(name) + ": expected a table");
    } else if (node) {
      for (const auto& [key, element] : *node->as_table()) {
        const auto value = element.value_exact<std::string>();
        if (!value) {
          fail(std::string(name) + "." + std::string(key.str()) + ": expected text");
        }
        values[std::string(key.str())] = value.value_or("");
      }
    }
    return values;
  }

  void fail(std::string what) {
    if (problem.empty()) {
      problem = std::move(what);
    }
  }

  std::string problem;

 private:
  const toml::table& table_;
};

Language read_row(Row& row) {
  Language language;
  language.name = row.text("name", true);
  language.aliases = row.texts("aliases", false);
  language.source = row.text("source", true);
  language.compile = row.texts("compile", false);
  language.run = row.texts("run", true);
  language.probe = row.texts("probe", true);
  language.environment = row.table("environment");
  language.warm = row.text("warm", false);
  language.warm_run = row.texts("warm_run", !language.warm.empty());
  language.preload = row.texts("preload", false);
  language.address_space = row.flag("address_space");
  if (language.source.find("{run}") == std::string::npos) {
    row.fail("source: needs {run}, so that executions do not share a file");
  }
  if (language.source.starts_with('/') || language.source.find("..") != std::string::npos) {
    row.fail("source: must be a path below the working directory");
  }
  return language;
}

}  // namespace

Result<std::vector<Language>> parse_languages(std::string_view toml_text) {
  toml::table document;
  try {
    document = toml::parse(toml_text);
  } catch (const toml::parse_error& error) {
    std::ostringstream where;
    where << "language table, " << error.source().begin << ": " << error.description();
    return make_error(ErrorCode::kValidation, where.str());
  }
  const toml::array* rows = document["language"].as_array();
  if (rows == nullptr || rows->empty()) {
    return make_error(ErrorCode::kValidation, "language table: no [[language]] rows");
  }
  std::vector<Language> languages;
  std::map<std::string, std::string> owners;  // of each name and alias
  for (std::size_t index = 0; index < rows->size(); ++index) {
    const toml::table* table = (*rows)[index].as_table();
    if (table == nullptr) {
      return row_error(index + 1, "expected a table");
    }
    Row row(*table);
    Language language = read_row(row);
    if (!row.problem.empty()) {
      return row_error(index + 1, row.problem);
    }
    std::vector<std::string> names = language.aliases;
    names.push_back(language.name);
    for (const std::string& name : names) {
      const auto [owner, fresh] = owners.emplace(name, language.name);
      if (!fresh && owner->second != language.name) {
        return row_error(index + 1, "the name " + name + " is of " + owner->second);
      }
    }
    languages.push_back(std::move(language));
  }
  return languages;
}

}  // namespace runbus::execution
