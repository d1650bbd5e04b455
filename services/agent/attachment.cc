#include "services/agent/attachment.h"

#include <algorithm>
#include <array>

#include "services/agent/execution.h"

namespace runbus::agent {

Attachment::Attachment(Connection& connection, Execution& execution, std::uint64_t offset,
                       std::uint64_t credit)
    : connection_(connection), execution_(&execution), position_(offset), credit_(credit) {
  execution_->add(*this);
}

Attachment::~Attachment() {
  if (execution_ != nullptr) {
    execution_->remove(*this);
  }
}

void Attachment::grant(std::uint64_t credit) { credit_ = std::max(credit_, credit); }

void Attachment::push(int stream, std::uint64_t offset, std::string_view bytes) {
  if (position_ != offset) {
    return;
  }
  while (!bytes.empty() && sent_ < credit_ && !connection_.congested()) {
    const std::size_t size = std::min<std::uint64_t>({bytes.size(), kFrameSize, credit_ - sent_});
    send_output(stream, bytes.substr(0, size));
    bytes.remove_prefix(size);
  }
}

Attachment::Progress Attachment::pump() {
  if (execution_ == nullptr) {
    return Progress::kFinished;
  }
  const log::OutputLog& log = execution_->log();
  if (position_ < log.first_offset()) {
    send_gap(log.first_offset());
    return Progress::kSent;
  }
  if (position_ == log.end_offset()) {
    if (!execution_->ended()) {
      return Progress::kBlocked;
    }
    v1::AgentReply reply;
    *reply.mutable_exited() = execution_->exited();
    connection_.send(reply);
    return Progress::kFinished;
  }
  if (sent_ >= credit_) {
    return Progress::kBlocked;
  }
  // One for all: the agent has one thread, and the bytes are sent or copied before this returns.
  static std::array<char, kFrameSize> buffer;
  const std::size_t room = std::min<std::uint64_t>(buffer.size(), credit_ - sent_);
  const log::Piece piece = execution_->read_log(reader_, position_, buffer.data(), room);
  if (piece.size > 0) {
    send_output(piece.stream, {buffer.data(), piece.size});
  }
  execution_->on_reader_moved();
  return Progress::kSent;
}

void Attachment::abandon() {
  if (position_ < execution_->log().end_offset()) {
    send_gap(execution_->log().end_offset());
  }
  v1::AgentReply reply;
  *reply.mutable_exited() = execution_->exited();
  connection_.send(reply);
  execution_ = nullptr;
}

void Attachment::send_output(int stream, std::string_view bytes) {
  v1::AgentReply reply;
  v1::Output& output = *reply.mutable_output();
  output.set_execution_id(execution_->id());
  output.set_stream(static_cast<std::uint32_t>(stream));
  output.set_offset(position_);
  position_ += bytes.size();
  sent_ += bytes.size();
  connection_.send(reply, bytes);
}

void Attachment::send_gap(std::uint64_t to) {
  v1::AgentReply reply;
  v1::Gap& gap = *reply.mutable_gap();
  gap.set_execution_id(execution_->id());
  gap.set_from(position_);
  gap.set_to(to);
  position_ = to;
  connection_.send(reply);
}

}  // namespace runbus::agent
