#include "io/export_card.h"

#include <inttypes.h>
#include <string.h>

/* The code must do without Cairn and give its logits: a test runs it as it stands in the page. */
static const char module_code[] =
    "```python\n"
    "import json\n"
    "import re\n"
    "import string\n"
    "\n"
    "import torch\n"
    "from safetensors.torch import load_file\n"
    "from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence\n"
    "\n"
    "\n"
    "class BiLSTMForTextClassification(torch.nn.Module):\n"
    "    def __init__(self, config):\n"
    "        super().__init__()\n"
    "        V, E = config[\"vocab_size\"], config[\"embedding_size\"]\n"
    "        H, D = config[\"hidden_size\"], config[\"dense_size\"]\n"
    "        self.embedding = torch.nn.Embedding(V, E)\n"
    "        self.lstm = torch.nn.LSTM(E, H, batch_first=True, bidirectional=True)\n"
    "        self.dense = torch.nn.Linear(2 * H, D)\n"
    "        self.output = torch.nn.Linear(D, 1)\n"
    "\n"
    "    def forward(self, ids):\n"
    "        \"\"\"A list of 1-D tensors of token ids in, one logit each out.\"\"\"\n"
    "        lengths = torch.tensor([len(row) for row in ids])\n"
    "        some = lengths > 0  # a text without words has zero states\n"
    "        state = torch.zeros(len(ids), 2 * self.lstm.hidden_size)\n"
    "        if some.any():\n"
    "            padded = pad_sequence([row for row in ids if len(row) > 0], batch_first=True)\n"
    "            packed = pack_padded_sequence(\n"
    "                self.embedding(padded), lengths[some], batch_first=True, "
    "enforce_sorted=False\n"
    "            )\n"
    "            _, (last, _) = self.lstm(packed)\n"
    "            state[some] = torch.cat([last[0], last[1]], dim=1)\n"
    "        return self.output(torch.relu(self.dense(state))).squeeze(1)\n"
    "\n"
    "\n"
    "class Tokenizer:\n"
    "    def __init__(self, rules, words):\n"
    "        self.rules = rules\n"
    "        self.index = {word: i for i, word in enumerate(words)}\n"
    "        self.table = str.maketrans(\n"
    "            string.ascii_uppercase, string.ascii_lowercase, string.punctuation\n"
    "        )\n"
    "\n"
    "    def __call__(self, text):\n"
    "        if self.rules[\"strip_html\"]:\n"
    "            text = re.sub(r\"<[A-Za-z/!][^>]*>\", \" \", text)\n"
    "        words = re.findall(r\"[^ \\t\\n\\v\\f\\r]+\", text.translate(self.table))\n"
    "        words = words[: self.rules[\"max_length\"] or None]\n"
    "        return torch.tensor([self.index.get(word, 1) for word in words], dtype=torch.long)\n"
    "\n"
    "\n"
    "def load(folder):\n"
    "    with open(f\"{folder}/config.json\", encoding=\"utf-8\") as file:\n"
    "        config = json.load(file)\n"
    "    with open(f\"{folder}/vocab.txt\", \"rb\") as file:\n"
    "        lines = file.read().decode(\"utf-8\", \"surrogateescape\").split(\"\\n\")\n"
    "    model = BiLSTMForTextClassification(config)\n"
    "    model.load_state_dict(load_file(f\"{folder}/model.safetensors\"))\n"
    "    return model.eval(), Tokenizer(config[\"text\"], lines[:-1]), config[\"id2label\"]\n"
    "```\n";

static const char use_code[] =
    "```python\n"
    "model, tokenizer, labels = load(\".\")\n"
    "with torch.no_grad():\n"
    "    logits = model([tokenizer(\"a wonderful film\"), tokenizer(\"a waste of time\")])\n"
    "for probability in torch.sigmoid(logits):\n"
    "    print(labels[\"1\" if probability > 0.5 else \"0\"], float(probability))\n"
    "```\n";

/* A name from the data inside of `...`: what would end it or the line is left out. */
static void append_name(struct text *out, const char *name) {
    for (; *name != '\0'; name++) {
        if (*name != '`' && (unsigned char)*name >= ' ') {
            text_append(out, name, 1);
        }
    }
}

void export_card(const struct export_model *model, struct text *out) {
    text_printf(out, "---\n"
                     "library_name: pytorch\n"
                     "pipeline_tag: text-classification\n"
                     "---\n"
                     "# A bidirectional-LSTM text classifier\n\n"
                     "Two classes: `");
    append_name(out, model->label_names[0]);
    text_printf(out, "` (0) and `");
    append_name(out, model->label_names[1]);
    text_printf(out, "` (1).");
    if (model->has_step) {
        text_printf(out, " Trained with Cairn for %" PRIu64 " steps.", model->step);
    }
    text_printf(out,
                "\n\n"
                "| layer | size |\n"
                "| --- | --- |\n"
                "| embedding | %" PRIu64 " words, %" PRIu64 " numbers each |\n"
                "| bidirectional LSTM | %" PRIu64 " in each direction |\n"
                "| dense, ReLU | %" PRIu64 " |\n"
                "| dense | 1: the logit of class 1 |\n\n",
                model->vocabulary_size, model->embedding_size, model->hidden_size,
                model->dense_size);
    text_printf(out, "`model.safetensors` holds the weights with the names of the PyTorch module "
                     "below, `config.json` the sizes and\n"
                     "the text rules, `vocab.txt` the words: a line each, the first line (from 0) "
                     "is padding, the second stands\n"
                     "for unknown words.\n\n"
                     "## With PyTorch\n\n");
    text_append(out, module_code, sizeof module_code - 1);
    text_printf(out, "\n");
    text_append(out, use_code, sizeof use_code - 1);
}
