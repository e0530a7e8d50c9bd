"""embeddings.html: videos as points that one can walk through, in one file that needs no network."""

from railsformer.explain.embedding_page.page import EmbeddedVideos, render_embeddings

__all__ = ["EmbeddedVideos", "render_embeddings"]
