#include "tools/runbus/keys.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "proto/support/id.h"
#include "proto/wire/curve_keys.h"
#include "proto/wire/transcoder.h"
#include "tools/runbus/commands.h"
#include "tools/runbus/files.h"
#include "tools/runbus/state_dir.h"

namespace runbus::cli {
namespace {

void print_json(std::initializer_list<std::pair<const char*, std::string>> members) {
  std::string line;
  for (const auto& [name, value] : members) {
    line.append(line.empty() ? "{\"" : ",\"").append(name).append("\":");
    wire::append_json_string(value, line);
  }
  std::printf("%s}\n", line.c_str());
}

}  // namespace

Result<ServerKey> server_key(const std::string& state_dir) {
  const std::string file = state_dir + "/server.secret";
  if (::access(file.c_str(), F_OK) != 0) {
    if (const Result<void> written = wire::write_secret_file(file, wire::make_key_pair());
        !written) {
      return written.error();
    }
  }
  const Result<wire::KeyPair> pair = wire::read_secret_file(file);
  if (!pair) {
    return pair.error();
  }
  return ServerKey{pair->public_key, file};
}

int keys_new(const KeysNewOptions& options) {
  if (!is_valid_id(options.name)) {
    return complain(
        failure("a key's name has letters, digits and . _ : -, and begins with a letter or digit"),
        2);
  }
  if (::mkdir(options.directory.c_str(), 0700) != 0 && errno != EEXIST) {
    return complain(failure_of_system("cannot make " + options.directory, errno));
  }
  const wire::KeyPair pair = wire::make_key_pair();
  const std::string secret_file = options.directory + "/" + options.name + ".secret";
  const std::string public_file = options.directory + "/" + options.name + ".pub";
  // The secret first: it refuses to replace one that is there.
  if (const Result<void> written = wire::write_secret_file(secret_file, pair); !written) {
    return complain(written.error());
  }
  const wire::AuthorizedKey key{options.role, pair.public_key, {}};
  if (const Result<void> written = wire::write_public_file(public_file, key); !written) {
    return complain(written.error());
  }
  if (options.json) {
    print_json({{"name", options.name},
                {"role", options.role},
                {"public_key", pair.public_key},
                {"public_file", public_file},
                {"secret_file", secret_file}});
    return 0;
  }
  std::printf("%s: copy it into the broker's directory of authorized keys\n", public_file.c_str());
  std::printf("%s: for the %s alone (--curve-secret-file)\n", secret_file.c_str(),
              options.role.c_str());
  return 0;
}

int keys_server(const KeysServerOptions& options) {
  const Result<StateDir> state = StateDir::open(options.state_dir);
  if (!state) {
    return complain(state.error());
  }
  const Result<ServerKey> key = server_key(state->path());
  if (!key) {
    return complain(key.error());
  }
  if (options.json) {
    print_json({{"public_key", key->public_key}, {"secret_file", key->secret_file}});
  } else {
    std::printf("%s\n", key->public_key.c_str());
  }
  return 0;
}

int token(const TokenOptions& options) {
  const Result<StateDir> state = StateDir::open(options.state_dir);
  if (!state) {
    return complain(state.error());
  }
  const Result<std::string> token =
      state->token(options.make_new ? std::optional(random_hex(24)) : std::nullopt);
  if (!token) {
    return complain(token.error());
  }
  if (options.make_new && ::access(state->url_file().c_str(), F_OK) == 0) {
    std::fputs(
        "runbus: the running `up` keeps the token it started with until it is started again\n",
        stderr);
  }
  if (options.json) {
    print_json({{"token", *token}, {"token_file", state->token_file()}});
  } else {
    std::printf("%s\n", token->c_str());
  }
  return 0;
}

}  // namespace runbus::cli
