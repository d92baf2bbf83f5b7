"""The bridge to Hugging Face: folders of config.json and safetensors, read into our families and written from them.

    formats.py   what each architecture of theirs is in settings of ours, and under which names it keeps its weights; of
                 encoders and encoder-decoders in files of their own
    read.py      a folder or a hub id into a model
    own.py       folders of the same shape for what none of these architectures computes
    write.py     a model into a folder that `transformers` loads

Weights are only ever read from safetensors: other files of weights are pickles, which may run code.
"""
