"""From genes to a plan: what training takes, and which instances fit."""
