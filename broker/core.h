#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>
#include <zmq.hpp>

#include "broker/claims.h"
#include "broker/directory.h"
#include "broker/history.h"
#include "broker/options.h"
#include "broker/parking.h"
#include "broker/sessions.h"
#include "broker/state.h"
#include "proto/support/error.h"
#include "runbus/v1/bus.pb.h"

// The broker without its sockets: messages and the time go in, messages come out through Output. It
// promises what bus.proto and DESIGN.md "Delivery" say: a call reaches at most one worker at a
// time, is given to another only while nobody has accepted it, and ends with one terminal reply; a
// session stays on its node; whatever a peer sends, only its own calls can suffer. Bounded
// throughout (CoreOptions). One thread.
namespace runbus::broker {

// Where a message came from, as the socket knows it.
struct Sender {
  std::string_view key;  // socket and routing id
  std::string_view
      user;  // "worker:name" or "gateway:name" of its CURVE key; empty for a local peer
  std::string_view node;  // the only node this key may claim, or empty
};

// Nothing here may call back into the core.
class Output {
 public:
  virtual ~Output() = default;
  // Sends or queues; never blocks. `kind` and `call_id` say what may overtake what.
  virtual void send(const std::string& key, v1::Kind kind, std::string_view call_id,
                    zmq::message_t header, zmq::message_t body) = 0;
  virtual void publish(std::string_view topic, std::string_view event) = 0;
  // The peer takes so many messages as one; until this is said, and with 0 or 1, each by itself.
  virtual void set_batch(const std::string& key, std::uint32_t messages) = 0;
  // What waits for the old key shall go to the new one.
  virtual void move(const std::string& old_key, const std::string& new_key) = 0;
  // Nothing more will be sent to the key.
  virtual void forget(const std::string& key) = 0;
};

class Core {
 public:
  // `epoch` is random, new for each start.
  Core(CoreOptions options, std::string epoch, Output& output, Now now);
  ~Core();
  Core(const Core&) = delete;
  Core& operator=(const Core&) = delete;

  // The frames of one message without the routing frame. They are taken or left as the core likes.
  void on_message(const Sender& sender, zmq::message_t& header, zmq::message_t& body, Now now);
  // A message that did not even have the right frames.
  void on_junk(std::string_view reason, std::string_view key);
  // A plain publisher's [topic][Event].
  void on_published(std::string_view topic, std::string_view event, Now now);
  // The connection is gone; the peer itself may come back within the heartbeat timeout.
  void on_unreachable(std::string_view key, Now now);
  // The peer has let its outbox run full: it is sent away.
  void on_overflow(std::string_view key, Now now);
  // Often: every 20 ms while busy(), and at least every heartbeat interval.
  void on_tick(Now now);
  bool busy() const;

  // GOODBYE to everybody: the broker ends.
  void say_goodbye(std::string_view reason);

  v1::StatsResponse stats(Now now) const;
  const std::string& epoch() const { return epoch_; }

 private:
  struct Choice {
    Slot* slot = nullptr;
    bool stranded = false;  // no slot, and not for want of room
  };

  // core.cc: messages, time, and who is gone
  void dispatch_kind(Peer& peer, zmq::message_t& header, zmq::message_t& body, Now now);
  void lose(Peer& peer, std::string_view why, bool for_good, Now now);
  void send_services(Peer& gateway);
  void watch_peers(Now now);
  void announce(std::string_view topic, const Peer& worker, Now now);
  void emit(Peer& peer, v1::Kind kind, std::string_view call_id, zmq::message_t body);
  void forward(Peer& peer, v1::Kind kind, std::string_view call_id, zmq::message_t header,
               zmq::message_t body);
  void drop(std::string_view reason, std::string_view key);
  Peer* find_peer(std::string_view id, v1::Role role);
  std::vector<Peer*> workers() const;

  // core_peers.cc: introductions
  void on_ready(const Sender& sender, const zmq::message_t& body, Now now);
  std::string check_identity(const Sender& sender, const v1::Ready& ready) const;
  Peer* introduce(const Sender& sender, const v1::Ready& ready, Now now);
  void rekey(Peer& peer, std::string_view key);
  bool take_offers(Peer& worker, const v1::Ready& ready, Now now);
  void take_calls(Peer& worker, const v1::Ready& ready, bool reconnected, Now now);
  template <class Ids>
  void take_sessions(const Peer& worker, const Ids& sessions);
  void on_heartbeat(Peer& peer, const zmq::message_t& body);
  void claim_call(Peer& worker, const std::string& call_id);
  void register_call(Peer& worker, const std::string& call_id);
  void welcome(Peer& peer, Now now);
  void refuse(std::string_view key, std::string_view reason);
  void stranger(std::string_view key);

  // core_calls.cc: calls and their answers
  void on_call(Peer& gateway, zmq::message_t& header, zmq::message_t& body);
  void on_repeated_call(Peer& gateway, Call& call, zmq::message_t& header, zmq::message_t& body);
  void on_reply(Peer& worker, zmq::message_t& header, zmq::message_t& body);
  void on_cancel(Peer& gateway, zmq::message_t& header, zmq::message_t& body);
  void on_follow_up(Peer& gateway, zmq::message_t& header, zmq::message_t& body);
  void to_named_worker(zmq::message_t& header, zmq::message_t& body, std::string_view key);
  void deliver(const std::string& origin, v1::Kind kind, std::string_view call_id,
               zmq::message_t header, zmq::message_t body);
  bool owns(Peer& gateway, Call& call);
  void give_back(Call& call);
  void fail(Call& call, Error error);
  void answer_error(Peer& gateway, std::string_view call_id, const Error& error);
  void check_doubtful_calls();
  void check_absent_gateways();
  Call* find_call(std::string_view id);
  bool recently_ended(std::string_view id) const;
  void remember_end(std::string_view id, bool ended);

  // core_queue.cc: which worker, and waiting for one
  void keep_follow_up(Call& call, zmq::message_t& header, zmq::message_t& body);
  Choice choose(const Call& call);
  Choice choose_pinned(const Call& call);
  const Node* node_of(const Call& call, const Service& service);
  static Choice choose_among(const Route& route, const Node* node, std::string_view session);
  static Slot* least_loaded(const Route& route, const Node* node, std::string_view session);
  bool settling() const;
  bool may_live_elsewhere(std::string_view session) const;
  void check_lobby();
  void place(Call& call, bool again);
  void place_again(Call& call);
  void enqueue(Call& call, bool stranded, bool again);
  void unqueue(Call& call);
  void dispatch(Call& call, Slot& slot);
  void end(Call& call);
  void pump_queue(Service& service, std::size_t limit);
  void check_queue(Service& service);

  // core_builtins.cc: what the broker answers itself, and events
  void on_builtin(Peer& gateway, const zmq::message_t& body);
  Result<void> take_event(Peer& peer, std::string_view bytes, v1::Event& event, Now now);
  void on_event(Peer& peer, const zmq::message_t& body, Now now);
  Result<v1::Published> publish_for(Peer& gateway, const zmq::message_t& body);
  bool may_publish(Peer& peer, Now now) const;
  void publish(v1::Event& event, Now now);
  v1::WorkersResponse worker_list() const;
  v1::ServicesResponse service_list() const;

  CoreOptions options_;
  std::string epoch_;
  Output& output_;
  Now now_;  // of the message or tick that is being handled
  std::uint64_t started_ms_;
  std::uint64_t started_wall_ms_;
  std::uint64_t last_tick_ms_;

  TextMap<std::unique_ptr<Peer>> peers_;  // by id
  TextMap<Peer*> peers_by_key_;           // present and old keys
  Directory directory_;
  Sessions sessions_;   // where this broker has put them
  Sessions announced_;  // where workers say they are; a worker that lies can push out only these
  History history_;
  Parking parking_;
  Service lobby_;  // calls that wait for a service of the time before this broker
  TextMap<std::unique_ptr<Call>> calls_;
  // Gateways that are gone and may come back, with the end of our patience.
  TextMap<std::uint64_t> absent_;
  Claims claims_;
  std::vector<std::string> doubtful_;
  // Hashes of the calls that ended lately: an old one gives way to a new one at the same place.
  std::vector<std::uint64_t> ended_;
  TextSet told_unknown_;
  std::uint64_t told_unknown_since_ = 0;

  v1::Header header_;      // of the message that is being handled
  v1::Header own_header_;  // of a message of our own
  std::uint64_t calls_total_ = 0;
  std::uint64_t redispatched_ = 0;
  std::uint64_t workers_lost_ = 0;
  std::uint64_t events_total_ = 0;
  std::size_t queued_calls_ = 0;
  std::size_t queued_bytes_ = 0;
  std::map<std::string, std::uint64_t, std::less<>> dropped_;
  std::uint64_t last_drop_log_ = 0;
  Peer publisher_;  // stands for all plain publishers in the accounting of events
};

}  // namespace runbus::broker
