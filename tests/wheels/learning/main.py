"""Models: gradient boosting, an ONNX graph run in threads, a tokenizer trained."""

import lightgbm
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from tokenizers import Tokenizer, models, pre_tokenizers, trainers


def boosting():
    chance = np.random.default_rng(7)
    inputs = chance.normal(size=(500, 4))
    labels = (inputs[:, 0] + inputs[:, 1] > 0).astype(int)
    model = lightgbm.LGBMClassifier(n_estimators=20, num_threads=4, verbose=-1).fit(inputs, labels)
    model.booster_.save_model("/tmp/model.txt")
    again = lightgbm.Booster(model_file="/tmp/model.txt")
    return [model.score(inputs, labels) > 0.9, bool(((again.predict(inputs) > 0.5) == labels).mean() > 0.9)]


def graph():
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    shown = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [64, 64]) for name in ("x", "w", "y")]
    model = helper.make_model(helper.make_graph(nodes, "g", shown[:2], shown[2:]), opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    matrix = np.arange(4096, dtype=np.float32).reshape(64, 64)
    return bool((session.run(None, {"x": matrix, "w": np.eye(64, dtype=np.float32)})[0] == matrix).all())


def tokens():
    tokenizer = Tokenizer(models.BPE(unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(["the penguin and the gull"] * 20, trainers.BpeTrainer(vocab_size=60, special_tokens=["?"]))
    batch = tokenizer.encode_batch(["the gull"] * 100)
    return [batch[0].tokens, len(batch)]


def handler(event, context):
    return globals()[event["case"]]()
