"""Small programs built on the public interface: run one, or copy it as a starting point.

python -m rtmtass.examples.numpy_array   a NumPy array, whole and block by block
python -m rtmtass.examples.recording     a recording, to files and as an array of its own rate
python -m rtmtass.examples.microphone    default input device to default output device
python -m rtmtass.examples.udp           float32 samples in and out over UDP
python -m rtmtass.examples.batch         many streams in one call
python -m rtmtass.examples.onnx_stems    an exported model, with onnxruntime and NumPy only
"""
