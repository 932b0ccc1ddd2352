#include "bus/rabbitmq/link.h"

#include <amqp.h>
#include <amqp_ssl_socket.h>
#include <amqp_tcp_socket.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>

#include "core/log.h"

namespace leat::bus::rabbitmq {
namespace {

constexpr std::string_view kComponent = "rabbitmq";
constexpr int kFrameBytesMax = 131'072;
constexpr size_t kFramesInRow = 64;
constexpr auto kPauseMin = std::chrono::milliseconds(50);
constexpr auto kPauseMax = std::chrono::milliseconds(2'000);

std::string_view View(const amqp_bytes_t& bytes) {
  return {static_cast<const char*>(bytes.bytes), bytes.len};
}

// A frozen broker accepts connections and says nothing.
timeval Timeval(std::chrono::milliseconds time) {
  return {static_cast<time_t>(time.count() / 1000),
          static_cast<suseconds_t>(time.count() % 1000 * 1000)};
}

std::string At(const RabbitMqOptions& options) {
  return "rabbitmq at " + options.host + ":" + std::to_string(options.port);
}

Status OpenSocket(const RabbitMqOptions& options, amqp_connection_state_t state) {
  const timeval timeout = Timeval(options.timeout);
  amqp_socket_t* socket;
  if (options.tls) {
    socket = amqp_ssl_socket_new(state);
    if (socket == nullptr)
      return Fail(ErrorClass::kInternal, "rabbitmq: no TLS socket can be made");
    if (!options.tls_ca_file.empty() &&
        amqp_ssl_socket_set_cacert(socket, options.tls_ca_file.c_str()) != 0) {
      return Invalid("rabbitmq.tls_ca_file: " + options.tls_ca_file + " cannot be read",
                     "name a PEM file");
    }
    if (!options.tls_certificate_file.empty() &&
        amqp_ssl_socket_set_key(socket, options.tls_certificate_file.c_str(),
                                options.tls_key_file.c_str()) != 0) {
      return Invalid("rabbitmq.tls_certificate_file, rabbitmq.tls_key_file: cannot be read",
                     "name two PEM files");
    }
    amqp_ssl_socket_set_verify_peer(socket, 1);
    amqp_ssl_socket_set_verify_hostname(socket, 1);
  } else {
    socket = amqp_tcp_socket_new(state);
    if (socket == nullptr) return Fail(ErrorClass::kInternal, "rabbitmq: no socket can be made");
  }
  const int opened = amqp_socket_open_noblock(socket, options.host.c_str(), options.port, &timeout);
  if (opened == AMQP_STATUS_OK) return {};
  if (opened == AMQP_STATUS_SSL_PEER_VERIFY_FAILED ||
      opened == AMQP_STATUS_SSL_HOSTNAME_VERIFY_FAILED) {
    return Invalid(At(options) + ": the broker's certificate is not taken: " +
                       amqp_error_string2(opened),
                   "check rabbitmq.tls_ca_file, and that the certificate names rabbitmq.host");
  }
  return Fail(
      ErrorClass::kUnavailable, At(options) + ": no broker answers: " + amqp_error_string2(opened),
      std::string("start a broker there (deploy/rabbitmq start), or set rabbitmq.host, ") +
          "rabbitmq.port and rabbitmq.tls");
}

// Streams came with 3.9. Who says neither product nor version is taken as it is.
Status CheckVersion(const amqp_table_t& properties) {
  constexpr std::pair<int, int> kOldest(3, 9);
  std::string product, version;
  for (int i = 0; i < properties.num_entries; ++i) {
    const auto& entry = properties.entries[i];
    if (entry.value.kind != AMQP_FIELD_KIND_UTF8) continue;
    if (View(entry.key) == "product") product = View(entry.value.value.bytes);
    if (View(entry.key) == "version") version = View(entry.value.value.bytes);
  }
  std::pair<int, int> number(0, 0);
  if (std::sscanf(version.c_str(), "%d.%d", &number.first, &number.second) != 2) return {};
  if (product != "RabbitMQ" || number >= kOldest) return {};
  return Fail(ErrorClass::kUnsupported, "rabbitmq: the broker is RabbitMQ " + version.substr(0, 32),
              "Leat needs RabbitMQ 3.9 or later: upgrade it, or set rabbitmq.host");
}

}  // namespace

Status Connection::Open(const RabbitMqOptions& options, int heartbeat_s) {
  Close();
  state_ = amqp_new_connection();
  const timeval timeout = Timeval(options.timeout);
  amqp_set_handshake_timeout(state_, &timeout);
  amqp_set_rpc_timeout(state_, &timeout);
  auto opened = OpenSocket(options, state_);
  if (!opened) {
    Close();
    return opened;
  }
  // Without these, a publish hangs inside send while the broker has an alarm, and a deleted queue
  // is silent.
  amqp_table_entry_t capability[3] = {};
  capability[0].key = amqp_cstring_bytes("connection.blocked");
  capability[0].value.kind = AMQP_FIELD_KIND_BOOLEAN;
  capability[0].value.value.boolean = 1;
  capability[1].key = amqp_cstring_bytes("consumer_cancel_notify");
  capability[1].value.kind = AMQP_FIELD_KIND_BOOLEAN;
  capability[1].value.value.boolean = 1;
  capability[2].key =
      amqp_cstring_bytes("authentication_failure_close");  // in words, not by hanging up
  capability[2].value.kind = AMQP_FIELD_KIND_BOOLEAN;
  capability[2].value.value.boolean = 1;
  amqp_table_entry_t property[2] = {};
  property[0].key = amqp_cstring_bytes("capabilities");
  property[0].value.kind = AMQP_FIELD_KIND_TABLE;
  property[0].value.value.table = {3, capability};
  property[1].key = amqp_cstring_bytes("connection_name");
  property[1].value.kind = AMQP_FIELD_KIND_UTF8;
  property[1].value.value.bytes = amqp_cstring_bytes("leat");
  const amqp_table_t properties = {2, property};
  const auto reply = amqp_login_with_properties(state_, options.vhost.c_str(), 0, kFrameBytesMax,
                                                heartbeat_s, &properties, AMQP_SASL_METHOD_PLAIN,
                                                options.username.c_str(), options.password.c_str());
  auto status = Check(reply, "login at " + options.host + ":" + std::to_string(options.port));
  if (!status) {
    if (status.error().error_class == ErrorClass::kInvalid) {
      status = Invalid(status.error().message,
                       "check rabbitmq.username, rabbitmq.password and rabbitmq.vhost");
    } else if (status.error().remedy.empty()) {
      status = Fail(status.error().error_class, status.error().message,
                    "see whether that is the port of a broker, and rabbitmq.tls");
    }
    Close();
    return status;
  }
  status = CheckVersion(*amqp_get_server_properties(state_));
  if (!status) Close();
  return status;
}

Status Connection::OpenChannel(amqp_channel_t channel) {
  amqp_channel_open(state_, channel);
  return Reply("opening a channel");
}

uint16_t Connection::ChannelsMax() const {
  constexpr int kMost = UINT16_MAX - 1;  // one less than a number holds; 0 is no limit of the broker's
  const int most = amqp_get_channel_max(state_);
  return static_cast<uint16_t>(most > 0 && most < kMost ? most : kMost);
}

void Connection::Close() {
  if (state_ == nullptr) return;
  amqp_destroy_connection(state_);  // closes the socket; a farewell could hang
  state_ = nullptr;
}

Status Connection::Reply(const std::string& what) const {
  return Check(amqp_get_rpc_reply(state_), what);
}

Status Connection::Check(int status, const std::string& what) const {
  if (status == AMQP_STATUS_OK) return {};
  return Fail(ErrorClass::kUnavailable, "rabbitmq: " + what + ": " + amqp_error_string2(status));
}

Status Connection::Check(const amqp_rpc_reply_t& reply, const std::string& what) const {
  switch (reply.reply_type) {
    case AMQP_RESPONSE_NORMAL:
      return {};
    case AMQP_RESPONSE_LIBRARY_EXCEPTION:
      return Check(reply.library_error, what);
    case AMQP_RESPONSE_SERVER_EXCEPTION: {
      uint16_t code = 0;
      std::string text;
      if (reply.reply.id == AMQP_CHANNEL_CLOSE_METHOD) {
        const auto* close = static_cast<const amqp_channel_close_t*>(reply.reply.decoded);
        code = close->reply_code;
        text = View(close->reply_text);
      } else if (reply.reply.id == AMQP_CONNECTION_CLOSE_METHOD) {
        const auto* close = static_cast<const amqp_connection_close_t*>(reply.reply.decoded);
        code = close->reply_code;
        text = View(close->reply_text);
      }
      // For a moment after its start a stream has no home; only the words tell this from a queue
      // that is not there.
      const bool passes = text.find("is down or inaccessible") != std::string::npos;
      const auto as = code == 404 && !passes       ? ErrorClass::kNotFound
                      : code == 405 || code == 406 ? ErrorClass::kConflict
                      : code == 403 || code == 530 ? ErrorClass::kInvalid
                                                   : ErrorClass::kUnavailable;
      return Fail(as, "rabbitmq: " + what + ": " + std::to_string(code) + " " + text);
    }
    default:
      return Fail(ErrorClass::kUnavailable, "rabbitmq: " + what + ": no answer");
  }
}

Link::~Link() = default;

void Link::Start() {
  wake_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  thread_ = std::jthread([this](const std::stop_token& stop) { Run(stop); });
}

void Link::Stop() {
  thread_.request_stop();
  Post({});
  if (thread_.joinable()) thread_.join();
  if (wake_ >= 0) close(wake_);
  wake_ = -1;
}

void Link::Post(std::function<Status(Connection*)> work) {
  {
    std::lock_guard lock(mutex_);
    if (work) posted_.push_back(std::move(work));
  }
  const uint64_t one = 1;
  [[maybe_unused]] const auto written = write(wake_, &one, sizeof one);
}

Status Link::WaitConnected(std::chrono::milliseconds timeout) const {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, timeout,
                    [&] { return connected_ || (!status_ && !status_.error().Retryable()); });
  if (connected_) return {};
  if (!status_) return status_;
  return Fail(ErrorClass::kUnavailable, At(options_) + ": not connected yet");
}

Status Link::status() const {
  std::lock_guard lock(mutex_);
  return connected_ ? Status() : status_;
}

void Link::Run(const std::stop_token& stop) {
  auto pause = kPauseMin;
  bool ever = false;  // it was connected
  std::mutex mutex;
  std::condition_variable_any stopped;
  while (!stop.stop_requested()) {
    Connection connection;
    auto status = [&]() -> Status {
      LEAT_TRY(connection.Open(options_, options_.heartbeat_s));
      {
        std::lock_guard lock(mutex_);
        posted_.clear();  // it was for the connection before
      }
      LEAT_TRY(OnConnected(&connection));
      ever = true;
      {
        std::lock_guard lock(mutex_);
        connected_ = true;
      }
      changed_.notify_all();
      pause = kPauseMin;
      LEAT_TRY(OnServing(&connection));
      return Serve(stop, &connection);
    }();
    if (stop.stop_requested()) break;
    if (!status && ever) {
      // It was right once: whatever it is, it may pass.
      status = Fail(ErrorClass::kUnavailable, status.error().message, status.error().remedy);
    }
    if (!status) {
      core::LogInfo(kComponent, name_ + ": " + status.error().Text());
      OnLost(status.error());
    }
    {
      std::lock_guard lock(mutex_);
      connected_ = false;
      status_ = std::move(status);
    }
    changed_.notify_all();
    std::unique_lock lock(mutex);
    stopped.wait_for(lock, stop, pause, [] { return false; });
    pause = std::min(pause * 2, kPauseMax);
  }
}

Status Link::Serve(const std::stop_token& stop, Connection* connection) {
  const amqp_connection_state_t state = connection->state();
  // Often enough for heartbeats: they are sent, and missed ones noticed, inside the library's
  // calls.
  const int tick_ms = std::max(100, options_.heartbeat_s * 250);
  while (!stop.stop_requested()) {
    std::vector<std::function<Status(Connection*)>> work;
    {
      std::lock_guard lock(mutex_);
      work.swap(posted_);
    }
    for (const auto& one : work) LEAT_TRY(one(connection));
    if (work.empty() && amqp_frames_enqueued(state) == 0 && amqp_data_in_buffer(state) == 0) {
      pollfd waiting[2] = {{amqp_get_sockfd(state), POLLIN, 0}, {wake_, POLLIN, 0}};
      poll(waiting, 2, tick_ms);
      uint64_t drained;
      [[maybe_unused]] const auto got = read(wake_, &drained, sizeof drained);
    }
    for (size_t frames = 0; frames < kFramesInRow; ++frames) {
      amqp_frame_t frame;
      const timeval at_once = {0, 0};
      const int status = amqp_simple_wait_frame_noblock(state, &frame, &at_once);
      if (status == AMQP_STATUS_TIMEOUT) break;
      LEAT_TRY(connection->Check(status, "reading"));
      if (frame.frame_type != AMQP_FRAME_METHOD) continue;
      if (frame.payload.method.id == AMQP_CONNECTION_CLOSE_METHOD ||
          frame.payload.method.id == AMQP_CHANNEL_CLOSE_METHOD) {
        amqp_rpc_reply_t reply{};
        reply.reply_type = AMQP_RESPONSE_SERVER_EXCEPTION;
        reply.reply = frame.payload.method;
        LEAT_TRY(connection->Check(reply, "closed by the broker"));
      }
      LEAT_TRY(OnMethod(connection, frame));
      amqp_maybe_release_buffers_on_channel(state, frame.channel);
    }
    LEAT_TRY(OnPause(connection));
    amqp_maybe_release_buffers(state);  // of what was asked on a channel that brings nothing
  }
  return {};
}

}  // namespace leat::bus::rabbitmq
