#include "bus/kafka/kafka_topics.h"

#include <librdkafka/rdkafka.h>

#include <map>

#include "bus/kafka/kafka_handle.h"
#include "core/log.h"

namespace leat::bus::kafka {
namespace {

constexpr std::string_view kComponent = "kafka";
constexpr size_t kErrorTextMax = 512;

bool IsForbidden(rd_kafka_resp_err_t error) {
  return error == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED ||
         error == RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED;
}

// By name; nothing when this user may not see it.
Result<std::map<std::string, std::string>> Configuration(rd_kafka_t* handle,
                                                         const std::string& topic,
                                                         std::chrono::milliseconds timeout) {
  const auto timeout_ms = static_cast<int>(timeout.count());
  char text[kErrorTextMax] = "";
  const Owned<rd_kafka_AdminOptions_t> how(
      rd_kafka_AdminOptions_new(handle, RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS));
  rd_kafka_AdminOptions_set_request_timeout(how.get(), timeout_ms, text, sizeof text);
  const Owned<rd_kafka_queue_t> queue(rd_kafka_queue_new(handle));
  const Owned<rd_kafka_ConfigResource_t> wanted(
      rd_kafka_ConfigResource_new(RD_KAFKA_RESOURCE_TOPIC, topic.c_str()));
  rd_kafka_ConfigResource_t* asked[] = {wanted.get()};
  rd_kafka_DescribeConfigs(handle, asked, 1, how.get(), queue.get());
  const Owned<rd_kafka_event_t> answer(rd_kafka_queue_poll(queue.get(), 2 * timeout_ms));
  const std::string what = "asking for the configuration of topic " + topic;
  if (answer == nullptr) return Broken(what, RD_KAFKA_RESP_ERR__TIMED_OUT);
  auto error = rd_kafka_event_error(answer.get());
  std::map<std::string, std::string> out;
  size_t count = 0;
  const auto* const resources =
      error != RD_KAFKA_RESP_ERR_NO_ERROR
          ? nullptr
          : rd_kafka_DescribeConfigs_result_resources(
                rd_kafka_event_DescribeConfigs_result(answer.get()), &count);
  if (count > 0) error = rd_kafka_ConfigResource_error(resources[0]);
  if (IsForbidden(error)) {
    core::LogWarning(kComponent, topic + ": this user may not see its configuration");
    return out;
  }
  if (error != RD_KAFKA_RESP_ERR_NO_ERROR) return Broken(what, error);
  if (count == 0) return out;
  const auto* const entries = rd_kafka_ConfigResource_configs(resources[0], &count);
  for (size_t i = 0; i < count; ++i) {
    const char* const value = rd_kafka_ConfigEntry_value(entries[i]);
    out[rd_kafka_ConfigEntry_name(entries[i])] = value == nullptr ? "" : value;
  }
  return out;
}

std::unexpected<Error> Other(const std::string& topic, const std::string& name, int64_t has,
                             int64_t wanted, const std::string& otherwise) {
  const std::string wish = name + "=" + std::to_string(wanted);
  return Fail(
      ErrorClass::kConflict,
      "topic " + topic + " has " + name + "=" + std::to_string(has) + ", wanted was " + wish,
      "kafka-configs --alter --entity-type topics --entity-name " + topic + " --add-config " +
          wish + otherwise);
}

}  // namespace

Status CheckTopic(rd_kafka_t* handle, const TopicWishes& wishes,
                  std::chrono::milliseconds timeout) {
  if (wishes.replication > 0 && wishes.replicas != wishes.replication) {
    return Fail(ErrorClass::kConflict,
                "topic " + wishes.name + " has replication factor " +
                    std::to_string(wishes.replicas) + ", wanted was " +
                    std::to_string(wishes.replication),
                "set topics.replication=" + std::to_string(wishes.replicas) +
                    ", or change it with kafka-reassign-partitions");
  }
  LEAT_ASSIGN(const auto configuration, Configuration(handle, wishes.name, timeout));
  const auto number = [&](const char* name, int64_t otherwise) {
    const auto found = configuration.find(name);
    return found == configuration.end() ? otherwise
                                        : std::strtoll(found->second.c_str(), nullptr, 10);
  };
  const int64_t retention_ms = number("retention.ms", wishes.retention_ms);
  if (retention_ms != wishes.retention_ms) {
    return Other(wishes.name, "retention.ms", retention_ms, wishes.retention_ms,
                 ", or set topics.retention_ms=" + std::to_string(retention_ms) +
                     " where all topics are to be like that");
  }
  const int64_t message_bytes = number("max.message.bytes", wishes.message_bytes);
  if (message_bytes < wishes.message_bytes)
    return Other(wishes.name, "max.message.bytes", message_bytes, wishes.message_bytes, "");
  return {};
}

}  // namespace leat::bus::kafka
