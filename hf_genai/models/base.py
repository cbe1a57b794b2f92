"""The base class of all models here: saving with the code that the Hub needs."""

import os

from transformers import PreTrainedModel
from transformers.dynamic_module_utils import custom_object_save


class GenaiPreTrainedModel(PreTrainedModel):
    def save_pretrained(self, save_directory, is_main_process: bool = True, **kwargs):
        """As in transformers, with the code beside the weights and named for every Auto class of the family.

        `register_for_auto_class` would name this class alone, and cost each step of `generate()` a look at signatures.
        """
        heads = self.config.auto_classes
        if type(self).__name__ in heads.values():
            module = type(self).__module__.rsplit(".", 1)[-1]
            self.config.auto_map = {auto_class: f"{module}.{name}" for auto_class, name in heads.items()}
            if is_main_process and not os.path.isfile(save_directory):
                os.makedirs(save_directory, exist_ok=True)
                custom_object_save(self, save_directory)
        super().save_pretrained(save_directory, is_main_process=is_main_process, **kwargs)
