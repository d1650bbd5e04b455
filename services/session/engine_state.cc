#include "services/session/engine_state.h"

#include <fcntl.h>
#include <rapidjson/document.h>
#include <rapidjson/stringbuffer.h>
#include <rapidjson/writer.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

namespace runbus::session {
namespace {

using Writer = rapidjson::Writer<rapidjson::StringBuffer>;

std::string path_of(const std::string& state_dir) { return state_dir + "/engine.json"; }

const std::string& boot_id() {
  static const std::string id = read_small_file("/proc/sys/kernel/random/boot_id");
  return id;
}

void write_process(Writer& writer, const char* name, const ProcessId& process) {
  writer.Key(name);
  writer.StartObject();
  writer.Key("pid");
  writer.Int(process.pid);
  writer.Key("start_time");
  writer.Uint64(process.start_time);
  writer.EndObject();
}

void write_text(Writer& writer, const char* name, const std::string& value) {
  writer.Key(name);
  writer.String(value);
}

std::string to_json(const EngineState& state) {
  rapidjson::StringBuffer buffer;
  Writer writer(buffer);
  writer.StartObject();
  write_text(writer, "boot", boot_id());
  write_text(writer, "engine", state.engine);
  write_text(writer, "key", state.key);
  write_process(writer, "monitor", state.monitor);
  write_process(writer, "first", state.first);
  writer.Key("cgroup_version");
  writer.Int(state.cgroup.version);
  writer.Key("cgroups");
  writer.StartArray();
  for (const std::string& folder : state.cgroup.folders) {
    writer.String(folder);
  }
  writer.EndArray();
  writer.Key("claimed_uid");
  writer.Uint(state.claimed_uid);
  write_text(writer, "runtime", state.runtime);
  write_text(writer, "runtime_root", state.runtime_root);
  writer.EndObject();
  return {buffer.GetString(), buffer.GetSize()};
}

std::string text_of(const rapidjson::Value& object, const char* name) {
  const auto found = object.FindMember(name);
  return found != object.MemberEnd() && found->value.IsString()
             ? std::string(found->value.GetString(), found->value.GetStringLength())
             : std::string();
}

std::uint64_t number_of(const rapidjson::Value& object, const char* name) {
  const auto found = object.FindMember(name);
  return found != object.MemberEnd() && found->value.IsUint64() ? found->value.GetUint64() : 0;
}

ProcessId process_of(const rapidjson::Value& object, const char* name) {
  const auto found = object.FindMember(name);
  if (found == object.MemberEnd() || !found->value.IsObject()) {
    return {};
  }
  const std::uint64_t start_time = number_of(found->value, "start_time");
  const std::uint64_t pid = number_of(found->value, "pid");
  return start_time == 0 ? ProcessId{} : ProcessId{static_cast<pid_t>(pid), start_time};
}

}  // namespace

Result<void> EngineState::save(const std::string& state_dir) const {
  const std::string path = path_of(state_dir);
  const std::string temporary = path + ".new";
  const std::string json = to_json(*this);
  UniqueFd fd(
      ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
  // Not synced to disk: it has to survive this process, and means nothing after a new start of the
  // machine.
  if (!fd || ::write(fd.get(), json.data(), json.size()) != static_cast<ssize_t>(json.size()) ||
      ::rename(temporary.c_str(), path.c_str()) != 0) {
    return make_error(ErrorCode::kInternal, {}, "writing " + path + ": " + std::strerror(errno));
  }
  return {};
}

Result<EngineState> EngineState::load(const std::string& state_dir) {
  const std::string text = read_small_file(path_of(state_dir));
  rapidjson::Document document;
  document.Parse<rapidjson::kParseIterativeFlag>(text.c_str(), text.size());
  if (document.HasParseError() || !document.IsObject() || text_of(document, "boot") != boot_id()) {
    return make_error(ErrorCode::kNotFound, "the session has no sandbox", path_of(state_dir));
  }
  EngineState state;
  state.engine = text_of(document, "engine");
  state.key = text_of(document, "key");
  state.monitor = process_of(document, "monitor");
  state.first = process_of(document, "first");
  state.cgroup.version = static_cast<int>(number_of(document, "cgroup_version"));
  if (const auto folders = document.FindMember("cgroups");
      folders != document.MemberEnd() && folders->value.IsArray()) {
    for (const auto& folder : folders->value.GetArray()) {
      if (folder.IsString()) {
        state.cgroup.folders.emplace_back(folder.GetString(), folder.GetStringLength());
      }
    }
  }
  state.claimed_uid = static_cast<std::uint32_t>(number_of(document, "claimed_uid"));
  state.runtime = text_of(document, "runtime");
  state.runtime_root = text_of(document, "runtime_root");
  return state;
}

void EngineState::remove(const std::string& state_dir) { ::unlink(path_of(state_dir).c_str()); }

}  // namespace runbus::session
