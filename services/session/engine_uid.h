#pragma once

#include <cstdint>
#include <string>

#include "proto/support/error.h"

// Host uids of sessions: each running sandbox of this host has one of its own, whoever started it.
// A claim is a symbolic link /run/runbus/uids/UID → state_dir, which the kernel makes for one taker
// alone; it is void once that folder has gone. Root only. Any thread, any process.
namespace runbus::session {

// Root's folder for what lives until the next start of the machine.
constexpr const char* kRuntimeDir = "/run/runbus";

// Claims a uid of [first, first + count) for the sandbox in `state_dir`: the one that `key` hashes
// to, so that a session keeps its own, or the next free one. kQuota when all are taken.
Result<std::uint32_t> claim_uid(std::uint32_t first, std::uint32_t count, const std::string& key,
                                const std::string& state_dir);
void release_uid(std::uint32_t uid, const std::string& state_dir);

// Gives the folder `fd` to uid and gid `owner`, with all that is in it; nothing to do when it is
// theirs.
Result<void> hand_over(int fd, std::uint32_t owner);

}  // namespace runbus::session
