"""Made of what servekit gives to plugin authors, and nothing else."""

import msgspec
import pytest
from servekit_messagepack import MessagePackAdapter

import servekit as serve
from servekit.testing.conformance import RequestAdapterTests


class TestMessagePack(RequestAdapterTests):
    """servekit's kit."""

    sets_status = sets_headers = streams = False

    def make_adapter(self):
        return MessagePackAdapter()

    def body_of(self, argument):
        return argument

    def result(self, answer):
        return answer.body

    def request_body(self, data):
        return msgspec.msgpack.encode(data)

    def answered_data(self, body):
        return msgspec.msgpack.decode(body)


def serve_it(handler, **more):
    serve.create_backend("b", handler, adapter="messagepack", **more)
    serve.create_endpoint("e", "/e", methods=["POST"], backend="b")


def test_an_endpoint(serve_instance):
    serve_it(lambda values: sum(values) / len(values))
    post = serve_instance.client.post
    assert msgspec.msgpack.decode(post("/e", content=msgspec.msgpack.encode([1, 2, 6])).content) == 3.0
    assert post("/e", content=b"\xc1").status_code == 400


def test_what_is_nested_deeper_than_the_option_says_is_refused(serve_instance):
    serve_it(lambda value: value, adapter_options={"max_depth": 2})
    post = serve_instance.client.post
    assert post("/e", content=msgspec.msgpack.encode([{"a": 1}])).status_code == 200
    assert post("/e", content=msgspec.msgpack.encode([{"a": []}])).text == "nested deeper than 2 levels\n"


@serve.accept_batch
def doubled(values):
    return [2 * value for value in values]


def test_in_a_batch_one_that_cannot_be_decoded_is_refused_alone(serve_instance):
    serve_it(doubled, config={"max_batch_size": 4})
    post = serve_instance.client.post
    assert post("/e", content=b"\xc1").status_code == 400
    assert msgspec.msgpack.decode(post("/e", content=msgspec.msgpack.encode(2)).content) == 4


def test_options():
    with pytest.raises(ValueError, match="max_depth is 0"):
        MessagePackAdapter(max_depth=0)
