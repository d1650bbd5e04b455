#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "proto/support/error.h"

namespace runbus::execution {

// One way to run a language, as a row of the language table says (tools/languages/languages.toml,
// which explains each member).
struct Language {
  std::string name;
  std::vector<std::string> aliases;
  std::string source;
  std::vector<std::string> compile;  // empty: nothing to compile
  std::vector<std::string> run;
  std::vector<std::string> probe;
  std::map<std::string, std::string> environment;
  std::string warm;
  std::vector<std::string> warm_run;
  std::vector<std::string> preload;
  bool address_space = false;
  std::string version;  // as the probe found it; empty when it could not tell
};

// Reads a language table. kValidation whose detail names the row and the member that is wrong. Rows
// keep their order; rows of one name are alternatives, but two names may not share an alias.
Result<std::vector<Language>> parse_languages(std::string_view toml);

// Where the tools of every language are looked for, in sandboxes as on the node.
inline constexpr std::string_view kToolPath = "/usr/local/bin:/usr/bin:/bin";

}  // namespace runbus::execution
