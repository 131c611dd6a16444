"""The native interface: what programs and operators need beyond OpenAI's."""
