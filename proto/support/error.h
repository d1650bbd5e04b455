#pragma once

#include <boost/system/result.hpp>
#include <cstdint>
#include <string>
#include <string_view>

// What can go wrong in a call, as data. The catalogue (error.cc) maps each code to its JSON-RPC
// number, whether trying again makes sense, and the text a client may see. DESIGN.md "Errors".
namespace runbus {

// The values are the JSON-RPC error codes that clients see (JSON-RPC 2.0 §5.1 and our -320xx).
enum class ErrorCode : std::int32_t {
  kParseError = -32700,
  kInvalidRequest = -32600,
  kMethodNotFound = -32601,
  kInvalidParams = -32602,
  kInternal = -32603,
  kAuthentication = -32000,
  kAuthorization = -32001,
  kRateLimit = -32002,
  kUnavailable = -32003,
  kConnection = -32004,
  kValidation = -32005,
  kTimeout = -32006,
  kNotFound = -32007,
  kConflict = -32008,
  kQuota = -32009,
  kWorkerLost = -32010,
  kCancelled = -32011,
  kBusy = -32012,
};

struct CatalogueEntry {
  ErrorCode code;
  std::string_view kind;     // stable snake_case name: `error.data.kind`
  std::string_view message;  // public text: `error.message`
  bool retryable;            // whether the same call may succeed later: `error.data.retryable`
};

// The entry of `code`; an unknown number gives the entry of kInternal. Any thread.
const CatalogueEntry& catalogue(ErrorCode code);

// The code whose number is `number`, or kInternal when the catalogue has none. For numbers off the wire.
ErrorCode error_code_from_number(std::int32_t number);

// One failure. `detail` is for the caller (`error.data.detail`): what was wrong and where, never a host
// path, a secret or an internal state; `internal` is for the log alone and never leaves the process.
struct Error {
  ErrorCode code = ErrorCode::kInternal;
  std::string detail;
  std::string internal;
  std::string limit;  // name of the limit that was hit, or empty: `error.data.limit`
};

inline Error make_error(ErrorCode code, std::string detail = {}, std::string internal = {}) {
  return Error{code, std::move(detail), std::move(internal), {}};
}

// "-32602 invalid_params: detail (internal)" for logs.
std::string to_string(const Error& error);

[[noreturn]] void throw_exception_from_error(const Error& error, const boost::source_location& location);

template <class T>
using Result = boost::system::result<T, Error>;

}  // namespace runbus
