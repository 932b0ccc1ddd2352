// A member of a group in a process of its own, for the conformance suite:
//
//   group_member kafka SERVERS PREFIX TOPIC GROUP INSTANCE
//   group_member rabbitmq PORT EXCHANGE TOPIC GROUP INSTANCE
//
// Writes a line "share 0,1 release 1" whenever its share changes, and releases what it is asked to.
// "error CLASS TEXT" is its last line. It ends when its standard input does.
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>

#include "bus/kafka/kafka_transport.h"
#include "bus/rabbitmq/rabbitmq_transport.h"
#include "core/log.h"

namespace {

using leat::Result;

std::string List(const std::set<uint32_t>& partitions) {
  std::string out;
  for (const uint32_t partition : partitions) {
    out += (out.empty() ? "" : ",") + std::to_string(partition);
  }
  return out;
}

// Again while it says that it may pass.
template <typename Call>
auto Patiently(const Call& call) {
  constexpr auto kPatience = std::chrono::seconds(60);
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  for (;;) {
    auto result = call();
    if (result || !result.error().Retryable() || std::chrono::steady_clock::now() > deadline)
      return result;
  }
}

[[noreturn]] void End(const leat::Error& error) {
  std::printf("error %s %s\n", std::string(leat::core::ErrorClassName(error.error_class)).c_str(),
              error.Text().c_str());
  std::fflush(stdout);
  std::_Exit(1);
}

std::unique_ptr<leat::bus::Transport> Open(const std::string& kind, const std::string& place,
                                           const std::string& prefix) {
  if (kind == "kafka") {
    leat::bus::KafkaOptions options;
    options.properties["bootstrap.servers"] = place;
    options.topic_prefix = prefix;
    auto opened = Patiently([&] { return leat::bus::KafkaTransport::Open(options); });
    if (!opened) End(opened.error());
    return std::move(*opened);
  }
  leat::bus::RabbitMqOptions options;
  options.port = static_cast<uint16_t>(std::stoi(place));
  options.exchange = prefix;
  auto opened = Patiently([&] { return leat::bus::RabbitMqTransport::Open(options); });
  if (!opened) End(opened.error());
  return std::move(*opened);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 7) return 2;
  leat::core::InitLog(leat::core::LogLevel::kError);
  const auto transport = Open(argv[1], argv[2], argv[3]);
  auto joined = Patiently([&] { return transport->Join(argv[4], argv[5], argv[6]); });
  if (!joined) End(joined.error());
  auto membership = std::move(*joined);
  std::atomic<bool> stop{false};
  std::jthread ending([&] {
    for (char byte; read(STDIN_FILENO, &byte, 1) > 0;) {
    }
    stop = true;
    membership->Wake();
  });
  leat::bus::Share known;
  while (!stop) {
    auto share = membership->Poll(std::chrono::milliseconds(1000));
    if (!share && share.error().Retryable()) continue;
    if (!share) End(share.error());
    if (*share != known) {
      std::printf("share %s release %s\n", List(share->held).c_str(),
                  List(share->to_release).c_str());
      std::fflush(stdout);
    }
    known = *share;
    for (const uint32_t partition : share->to_release) {
      if (auto released = membership->Release(partition); !released) End(released.error());
      known.held.erase(partition);
    }
    known.to_release.clear();
  }
  ending.join();
  membership.reset();
  return 0;
}
