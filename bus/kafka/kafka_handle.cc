#include "bus/kafka/kafka_handle.h"

#include <librdkafka/rdkafka.h>

namespace leat::bus::kafka {

void Destroy::operator()(rd_kafka_AdminOptions_t* options) const {
  rd_kafka_AdminOptions_destroy(options);
}
void Destroy::operator()(rd_kafka_ConfigResource_t* resource) const {
  rd_kafka_ConfigResource_destroy(resource);
}
void Destroy::operator()(rd_kafka_NewTopic_t* topic) const { rd_kafka_NewTopic_destroy(topic); }
void Destroy::operator()(rd_kafka_conf_t* conf) const { rd_kafka_conf_destroy(conf); }
void Destroy::operator()(const rd_kafka_group_list* groups) const {
  rd_kafka_group_list_destroy(groups);
}
void Destroy::operator()(const rd_kafka_metadata_t* metadata) const {
  rd_kafka_metadata_destroy(metadata);
}
void Destroy::operator()(rd_kafka_event_t* event) const { rd_kafka_event_destroy(event); }
void Destroy::operator()(rd_kafka_queue_t* queue) const { rd_kafka_queue_destroy(queue); }
void Destroy::operator()(rd_kafka_t* handle) const { rd_kafka_destroy(handle); }
void Destroy::operator()(rd_kafka_topic_partition_list_t* list) const {
  rd_kafka_topic_partition_list_destroy(list);
}
void Destroy::operator()(rd_kafka_topic_t* topic) const { rd_kafka_topic_destroy(topic); }

ErrorClass ClassOf(int error) {
  switch (error) {
    case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
    case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
    case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
      return ErrorClass::kNotFound;
    case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE:
    case RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE:
    case RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION:
    case RD_KAFKA_RESP_ERR_INVALID_REPLICATION_FACTOR:
    case RD_KAFKA_RESP_ERR_INVALID_PARTITIONS:
    case RD_KAFKA_RESP_ERR_INVALID_CONFIG:
    case RD_KAFKA_RESP_ERR_POLICY_VIOLATION:
    case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
    case RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED:
    case RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED:
    case RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED:
    case RD_KAFKA_RESP_ERR__AUTHENTICATION:
    case RD_KAFKA_RESP_ERR__SSL:
      return ErrorClass::kInvalid;
    case RD_KAFKA_RESP_ERR_UNSUPPORTED_VERSION:
    case RD_KAFKA_RESP_ERR__UNSUPPORTED_FEATURE:
      return ErrorClass::kUnsupported;
    default:
      return ErrorClass::kUnavailable;
  }
}

std::unexpected<Error> Broken(const std::string& what, int error, std::string remedy) {
  const char* const text = rd_kafka_err2str(static_cast<rd_kafka_resp_err_t>(error));
  return Fail(ClassOf(error), "kafka: " + what + ": " + text, std::move(remedy));
}

}  // namespace leat::bus::kafka
