"""The commands of `hf-genai`, a file for each group; what they import at the top is light, so that --help is quick."""
