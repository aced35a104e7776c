SELECT recount_events();

DO $$
DECLARE
    of_chain bigint;
    who numeric[];
BEGIN
    FOR of_chain IN SELECT DISTINCT chain_id FROM events LOOP
        who := agents_after(of_chain, '-infinity', 20000);
        WHILE who IS NOT NULL LOOP
            PERFORM refold_agents(of_chain, who);
            who := agents_after(of_chain, who[cardinality(who)], 20000);
        END LOOP;
        PERFORM refold_operators(of_chain, ARRAY(
            SELECT DISTINCT owner FROM events WHERE chain_id = of_chain AND event_type = 'ApprovalForAll'
                AND agent_id IS NULL AND owner IS NOT NULL));
    END LOOP;
END $$;
