#include "proto/support/error.h"

#include <array>
#include <stdexcept>

namespace runbus {
namespace {

using enum ErrorCode;

constexpr std::array kCatalogue{
    CatalogueEntry{kParseError, "parse_error", "Parse error", false},
    CatalogueEntry{kInvalidRequest, "invalid_request", "Invalid Request", false},
    CatalogueEntry{kMethodNotFound, "method_not_found", "Method not found", false},
    CatalogueEntry{kInvalidParams, "invalid_params", "Invalid params", false},
    CatalogueEntry{kInternal, "internal", "Internal error", false},
    CatalogueEntry{kAuthentication, "authentication", "Authentication required", false},
    CatalogueEntry{kAuthorization, "authorization", "Not allowed", false},
    CatalogueEntry{kRateLimit, "rate_limit", "Too many requests", true},
    CatalogueEntry{kUnavailable, "unavailable", "Service unavailable", true},
    CatalogueEntry{kConnection, "connection", "Connection failed", true},
    CatalogueEntry{kValidation, "validation", "Validation failed", false},
    CatalogueEntry{kTimeout, "timeout", "Deadline exceeded", true},
    CatalogueEntry{kNotFound, "not_found", "Not found", false},
    CatalogueEntry{kConflict, "conflict", "Conflict", false},
    CatalogueEntry{kQuota, "quota", "Quota exceeded", false},
    CatalogueEntry{kWorkerLost, "worker_lost", "Worker lost", false},
    CatalogueEntry{kCancelled, "cancelled", "Cancelled", false},
    CatalogueEntry{kBusy, "busy", "Busy", true},
};

}  // namespace

const CatalogueEntry& catalogue(ErrorCode code) {
  const CatalogueEntry* internal = nullptr;
  for (const CatalogueEntry& entry : kCatalogue) {
    if (entry.code == code) {
      return entry;
    }
    if (entry.code == kInternal) {
      internal = &entry;
    }
  }
  return *internal;
}

ErrorCode error_code_from_number(std::int32_t number) {
  return catalogue(static_cast<ErrorCode>(number)).code;
}

std::string to_string(const Error& error) {
  const CatalogueEntry& entry = catalogue(error.code);
  std::string text = std::to_string(static_cast<std::int32_t>(entry.code));
  text.append(" ").append(entry.kind);
  if (!error.detail.empty()) {
    text.append(": ").append(error.detail);
  }
  if (!error.internal.empty()) {
    text.append(" (").append(error.internal).append(")");
  }
  return text;
}

void throw_exception_from_error(const Error& error, const boost::source_location& location) {
  throw std::runtime_error(to_string(error) + " at " + location.to_string());
}

}  // namespace runbus
