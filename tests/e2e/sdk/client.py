#!/usr/bin/env python3
"""CloudEvents as somebody else has them: the official SDK for Python on plain clients of the brokers, and Python that protoc
made of our .proto files. Knows nothing else of Leat.

usage: client.py read|write --broker kafka|rabbitmq --port N --generated DIR --topic NAME [--exchange NAME] [--count N]

`read` prints the first events of partition 0, a JSON object a line: their attributes, and their data by the .proto. `write`
publishes an event of type chain.block_reverted.v1 in each of the SDK's forms, and prints their ids.
"""

import argparse
import datetime
import importlib
import json
import sys
import time

from cloudevents.core.bindings import amqp, kafka, rabbitmq
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from google.protobuf.json_format import MessageToDict

DEADLINE_S = 30
TYPE = "chain.block_reverted.v1"
WRITTEN = {"chain": "eip155:5", "number": 7}
TIME = datetime.datetime(2020, 1, 2, 3, 4, 5, 678000, tzinfo=datetime.timezone.utc)


def message_of(event_type):
    """The Protobuf class of an event type: "<domain>.<what_happened>.v<N>" is <WhatHappened> of <domain>/v<N>/<domain>.proto."""
    domain, name, version = event_type.split(".")
    module = importlib.import_module(f"{domain}.{version}.{domain}_pb2")
    return getattr(module, "".join(word.capitalize() for word in name.split("_")))


def shown(event):
    data = event.get_data() or b""
    message = message_of(event.get_type()).FromString(data if isinstance(data, bytes) else data.encode())
    attributes = {name: value.isoformat() if isinstance(value, datetime.datetime) else value
                  for name, value in event.get_attributes().items()}
    return json.dumps({"attributes": attributes, "data": MessageToDict(message, preserving_proto_field_name=True)})


def binary(event_id):
    return CloudEvent({"specversion": "1.0", "id": event_id, "source": "//sdk", "type": TYPE, "time": TIME,
                       "subject": "chain-x", "datacontenttype": "application/protobuf", "partitionkey": "k", "tenant": "x"},
                      message_of(TYPE)(**WRITTEN).SerializeToString())


def structured(event_id):
    return CloudEvent({"specversion": "1.0", "id": event_id, "source": "//sdk", "type": TYPE, "time": TIME,
                       "subject": "chain-x", "datacontenttype": "application/json", "partitionkey": "k", "tenant": "x"},
                      {**WRITTEN, "number": str(WRITTEN["number"])})


class Kafka:
    def __init__(self, arguments):
        self.servers = {"bootstrap.servers": f"127.0.0.1:{arguments.port}"}
        self.topic = arguments.topic

    def read(self, count):
        from confluent_kafka import Consumer, TopicPartition
        consumer = Consumer({**self.servers, "group.id": "sdk", "enable.auto.commit": False})
        consumer.assign([TopicPartition(self.topic, 0, 0)])
        deadline = time.monotonic() + DEADLINE_S
        while count > 0 and time.monotonic() < deadline:
            message = consumer.poll(1)
            if message is None:
                continue
            if message.error():
                raise SystemExit(str(message.error()))
            as_sent = kafka.KafkaMessage(dict(message.headers() or []), message.key(), message.value() or b"")
            yield kafka.from_kafka(as_sent, JSONFormat(), CloudEvent)
            count -= 1
        consumer.close()

    def write(self):
        from confluent_kafka import Producer
        producer = Producer(self.servers)
        failed = []
        messages = {"sdk-binary": kafka.to_binary(binary("sdk-binary"), JSONFormat()),
                    "sdk-structured": kafka.to_structured(structured("sdk-structured"), JSONFormat())}
        for message in messages.values():
            producer.produce(self.topic, message.value, message.key, partition=0, headers=list(message.headers.items()),
                             on_delivery=lambda error, _: failed.append(error) if error else None)
        if producer.flush(DEADLINE_S) or failed:
            raise SystemExit(f"not delivered: {failed}")
        return list(messages)


class RabbitMq:
    def __init__(self, arguments):
        import pika
        self.pika = pika
        self.connection = pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", arguments.port))
        self.channel = self.connection.channel()
        self.exchange, self.topic = arguments.exchange, arguments.topic

    def read(self, count):
        self.channel.basic_qos(prefetch_count=100)
        queue = f"{self.exchange}.{self.topic}.0"
        for method, properties, body in self.channel.consume(queue, inactivity_timeout=DEADLINE_S,
                                                             arguments={"x-stream-offset": "first"}):
            if method is None:
                return
            self.channel.basic_ack(method.delivery_tag)
            if properties.type == "leat.mark":
                continue
            message = amqp.AMQPMessage({"content-type": properties.content_type}, properties.headers, body)
            yield amqp.from_amqp(message, JSONFormat(), CloudEvent)
            count -= 1
            if count == 0:
                return

    def write(self):
        # The binding to AMQP 1.0 (a time as a number), the SDK's own to RabbitMQ ("ce-"), and structured.
        one = amqp.to_binary(binary("sdk-amqp"), JSONFormat())
        two = rabbitmq.to_binary(binary("sdk-rabbitmq"), JSONFormat())
        three = rabbitmq.to_structured(structured("sdk-structured"), JSONFormat())
        self.channel.confirm_delivery()
        for headers, content_type, body in ((one.application_properties, one.properties["content-type"], one.application_data),
                                            (two.headers, two.content_type, two.body),
                                            (three.headers, three.content_type, three.body)):
            properties = self.pika.BasicProperties(delivery_mode=2, content_type=content_type, headers=headers)
            self.channel.basic_publish(self.exchange, f"{self.topic}.0.{TYPE}", body, properties, mandatory=True)
        return ["sdk-amqp", "sdk-rabbitmq", "sdk-structured"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["read", "write"])
    parser.add_argument("--broker", choices=["kafka", "rabbitmq"], required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--generated", required=True, help="folder of what protoc made")
    parser.add_argument("--topic", required=True)
    parser.add_argument("--exchange")
    parser.add_argument("--count", type=int, default=1)
    arguments = parser.parse_args()
    sys.path.insert(0, arguments.generated)
    client = {"kafka": Kafka, "rabbitmq": RabbitMq}[arguments.broker](arguments)
    if arguments.verb == "write":
        print(json.dumps(client.write()))
        return
    for event in client.read(arguments.count):
        print(shown(event), flush=True)


if __name__ == "__main__":
    main()
