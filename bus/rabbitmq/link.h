// One AMQP 0.9.1 connection with the thread that serves it: heartbeats are answered and frames are
// read whatever others do, since this thread does no work of its own. The connection comes back by
// itself, with pauses in between.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "bus/rabbitmq/rabbitmq_transport.h"
#include "core/result.h"

// Of rabbitmq-c, whose headers stay in the .cc files.
struct amqp_connection_state_t_;
struct amqp_frame_t_;
struct amqp_rpc_reply_t_;

namespace leat::bus::rabbitmq {

// A connection that is closed with its object.
class Connection {
 public:
  Connection() = default;
  ~Connection() { Close(); }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // `heartbeat_s` 0: none are sent, for connections that nobody serves. Errors: kUnavailable,
  // kInvalid (credentials), kUnsupported (a broker that is too old).
  Status Open(const RabbitMqOptions& options, int heartbeat_s);
  Status OpenChannel(uint16_t channel);
  // So many channels the broker lets it have, from 1 on: its channel_max, 2,047 by default.
  uint16_t ChannelsMax() const;
  void Close();
  amqp_connection_state_t_* state() const { return state_; }

  // What the last synchronous call came to; "what" is what was tried. Errors: kNotFound (no such
  // queue), kConflict (it is locked, or another one), kInvalid (not allowed), kUnavailable.
  Status Reply(const std::string& what) const;
  Status Check(const amqp_rpc_reply_t_& reply, const std::string& what) const;
  Status Check(int status, const std::string& what) const;

 private:
  amqp_connection_state_t_* state_ = nullptr;
};

// The thread. A derived class calls Start at the end of its constructor and Stop at the beginning
// of its destructor.
class Link {
 public:
  explicit Link(const RabbitMqOptions& options, std::string name)
      : options_(options), name_(std::move(name)) {}
  virtual ~Link();

  // Waits until the connection is there. Errors: what the last try came to.
  Status WaitConnected(std::chrono::milliseconds timeout) const;
  // Why there is no connection now.
  Status status() const;

 protected:
  // All of these are called on the thread.
  virtual Status OnConnected(Connection* connection) = 0;
  // What was posted from now on is run.
  virtual Status OnServing(Connection*) { return {}; }
  virtual void OnLost(const Error& error) = 0;
  // A method that the broker sent by itself; what follows it may be read from the connection.
  virtual Status OnMethod(Connection* connection, const amqp_frame_t_& frame) = 0;
  // Everything that had come was given to OnMethod, or kFramesInRow of it: what is done once for
  // several of them. Several times within a heartbeat at least, while there is a connection.
  virtual Status OnPause(Connection*) { return {}; }

  void Start();
  void Stop();
  // Runs it on the thread, with the connection; when there is none, it is dropped.
  void Post(std::function<Status(Connection*)> work);

  const RabbitMqOptions& options_;

 private:
  void Run(const std::stop_token& stop);
  Status Serve(const std::stop_token& stop, Connection* connection);

  const std::string name_;
  int wake_ = -1;  // an eventfd
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::vector<std::function<Status(Connection*)>> posted_;  // guarded by mutex_
  bool connected_ = false;                                  // guarded by mutex_
  Status status_;                                           // guarded by mutex_
  std::jthread thread_;
};

}  // namespace leat::bus::rabbitmq
