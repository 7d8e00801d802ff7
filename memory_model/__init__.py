"""The LLM that writes and reads memories: z = f(D), and answers from [z_1 … z_K][query]."""
