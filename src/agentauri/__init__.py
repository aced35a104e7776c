"""AgentAuri: never miss an event, never match it twice, never lie about a reorg, always say why."""
