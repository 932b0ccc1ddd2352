// Publishing to Kafka and reading from it, beside a bare loop on librdkafka with the same settings
// in the same run.
//
// usage: bench_kafka [BOOTSTRAP=127.0.0.1:19092] [EVENTS=2000000]     (deploy/kafka start)
//
// Events carry 200 bytes of data; the bare messages have as many bytes of payload and nothing else:
// the difference is what an event's attributes cost. Each is measured three times in turns, and the
// medians are compared.
#include <librdkafka/rdkafka.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "bus/kafka/kafka_transport.h"
#include "core/log.h"

namespace {

using Clock = std::chrono::steady_clock;
constexpr size_t kDataBytes = 200;
constexpr size_t kBatch = 500;           // messages of one call, bare
constexpr size_t kPublishEvents = 5000;  // events of one Publish
constexpr int kPublishers = 2;
constexpr int kRounds = 3;

double Seconds(Clock::time_point begun) {
  return std::chrono::duration<double>(Clock::now() - begun).count();
}
double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

std::atomic<uint64_t> confirmed{0};
void OnReport(rd_kafka_t*, const rd_kafka_message_t* message, void*) {
  if (message->err != RD_KAFKA_RESP_ERR_NO_ERROR) std::abort();
  ++confirmed;
}

double Bare(const std::string& servers, const std::string& topic, uint64_t events,
            const std::string& data) {
  char error[512];
  rd_kafka_conf_t* conf = rd_kafka_conf_new();
  const std::pair<const char*, std::string> settings[] = {
      {"bootstrap.servers", servers},
      {"enable.idempotence", "true"},
      {"acks", "all"},
      {"compression.codec", "lz4"},
      {"linger.ms", "0"},
      {"queue.buffering.max.messages", "1000000"},
      {"queue.buffering.max.kbytes", "262144"},
      {"socket.nagle.disable", "true"}};
  for (const auto& [name, value] : settings) {
    if (rd_kafka_conf_set(conf, name, value.c_str(), error, sizeof error) != RD_KAFKA_CONF_OK)
      std::abort();
  }
  rd_kafka_conf_set_dr_msg_cb(conf, OnReport);
  rd_kafka_t* producer = rd_kafka_new(RD_KAFKA_PRODUCER, conf, error, sizeof error);
  rd_kafka_topic_t* handle = rd_kafka_topic_new(producer, topic.c_str(), nullptr);
  // The first message of an idempotent producer waits for its id.
  confirmed = 0;
  rd_kafka_produce(handle, 0, RD_KAFKA_MSG_F_COPY, const_cast<char*>(data.data()), data.size(),
                   nullptr, 0, nullptr);
  while (confirmed < 1) rd_kafka_poll(producer, 10);
  confirmed = 0;
  const auto begun = Clock::now();
  std::jthread reports([&] {
    while (confirmed < events) rd_kafka_poll(producer, 100);
  });
  std::vector<rd_kafka_message_t> batch(kBatch);
  for (uint64_t sent = 0; sent < events;) {
    for (auto& message : batch) {
      message = {};
      message.payload = const_cast<char*>(data.data());
      message.len = data.size();
    }
    const int count = static_cast<int>(std::min<uint64_t>(kBatch, events - sent));
    int done = 0;
    while (done < count) {
      done +=
          rd_kafka_produce_batch(handle, 0, RD_KAFKA_MSG_F_COPY, batch.data() + done, count - done);
      if (done < count) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    sent += static_cast<uint64_t>(count);
  }
  reports.join();
  const double took = Seconds(begun);
  rd_kafka_topic_destroy(handle);
  rd_kafka_destroy(producer);
  return static_cast<double>(events) / took;
}

double Ours(leat::bus::KafkaTransport* transport, const std::string& topic, uint64_t events,
            const std::string& data) {
  leat::events::EventView view;
  view.type = "bench.happened.v1";
  view.id = "0190163d-8694-739b-aea5-966c26f8ad91";
  view.source = "bench";
  view.time_us = 1'500'000'000'000'000;
  view.data = data;
  const std::vector<leat::events::Event> batch(kPublishEvents, leat::events::Event(view));
  if (!transport->Publish(topic, {batch.front()})) std::abort();
  std::atomic<uint64_t> left{events / kPublishEvents};
  const auto begun = Clock::now();
  {
    std::vector<std::jthread> publishers;
    for (int i = 0; i < kPublishers; ++i) {
      publishers.emplace_back([&] {
        for (;;) {
          const uint64_t now = left.load();
          if (now == 0) return;
          uint64_t expected = now;
          if (!left.compare_exchange_strong(expected, now - 1)) continue;
          if (auto done = transport->Publish(topic, batch); !done) {
            std::fprintf(stderr, "%s\n", done.error().Text().c_str());
            std::abort();
          }
        }
      });
    }
  }
  return static_cast<double>(events / kPublishEvents * kPublishEvents) / Seconds(begun);
}

double Read(leat::bus::KafkaTransport* transport, const std::string& topic, uint64_t events,
            std::chrono::nanoseconds work) {
  auto subscription = transport->Subscribe(topic, 0, 0);
  if (!subscription) std::abort();
  leat::bus::MessageBatch batch;
  leat::bus::PollLimits limits;
  uint64_t read = 0;
  Clock::time_point begun;
  while (read < events) {
    if (!(*subscription)->Poll(limits, &batch)) std::abort();
    if (read == 0) begun = Clock::now();
    for (size_t i = 0; i < batch.messages.size() && work.count() > 0; ++i) {
      const auto until = Clock::now() + work;
      while (Clock::now() < until) {
      }
    }
    read += batch.messages.size();
  }
  return static_cast<double>(read) / Seconds(begun);
}

}  // namespace

int main(int argc, char** argv) {
  leat::core::InitLog(leat::core::LogLevel::kError);
  const std::string servers = argc > 1 ? argv[1] : "127.0.0.1:19092";
  const uint64_t events = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 2'000'000;
  leat::bus::KafkaOptions options;
  options.properties["bootstrap.servers"] = servers;
  options.topic_prefix = "bench" + std::to_string(Clock::now().time_since_epoch().count()) + ".";
  auto transport = leat::bus::KafkaTransport::Open(options);
  if (!transport) {
    std::fprintf(stderr, "%s\n", transport.error().Text().c_str());
    return 1;
  }
  // Bytes that compress as text of a business does, not as zeros.
  std::string data;
  for (uint64_t i = 0; data.size() < kDataBytes; ++i)
    data += std::to_string(i * 2'654'435'761 % 100'003) + ",";
  data.resize(kDataBytes);

  std::vector<double> bare, ours;
  for (int round = 0; round < kRounds; ++round) {
    for (const char* topic : {"bare", "ours"}) {
      const std::string name = topic + std::to_string(round);
      if (auto made = (*transport)->CreateTopic(name, 1); !made) return 1;
      if (*topic == 'b') {
        bare.push_back(Bare(servers, options.topic_prefix + name, events, data));
      } else {
        ours.push_back(Ours(transport->get(), name, events, data));
      }
    }
    std::printf("round %d: bare loop %.0f/s, publish %.0f/s\n", round + 1, bare.back(),
                ours.back());
    std::fflush(stdout);
  }
  std::printf(
      "publish of %zu B events, reports awaited: %.0f/s, %.2f of rd_kafka_produce_batch (%.0f/s)\n",
      kDataBytes, Median(ours), Median(ours) / Median(bare), Median(bare));
  std::printf("read by offset: %.0f/s\n",
              Read(transport->get(), "ours0", events, std::chrono::nanoseconds(0)));
  const double slow = Read(transport->get(), "ours1", events, std::chrono::microseconds(3));
  std::printf("read with 3 us of work an event: %.0f/s, %.2f of 333,000/s\n", slow, slow / 333'333);
  return 0;
}
