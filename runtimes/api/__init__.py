"""An HTTP server in front of bundles, with the interface of the vendor's and OpenAI's."""
