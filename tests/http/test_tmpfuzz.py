import random, json
from urllib.parse import quote
from .test_hostile import SOUND, mutations, STRANGE
async def test_fuzz(api, key, log_lines):
    bad=[]
    names=["limit","offset","page","cursor","order","chain_id","registry","event_type","agent_id","client","owner","validator","tag1","tag2","tx_hash","from_block","to_block","from_time","to_time","search","include_retracted","sort","status","trigger_id","action_id","action_type","event_id","environment","kind","hold","correlation_id","since","until","enabled","breaker_state","managed"]
    vals=["","1","0","-1","x","true","null","9"*400,"%00","%","%ff%fe","' OR 1=1","\\","&","*:*","a:*","!a","<->","9999999999","1e9","2026-01-01T00:00:00Z","-62135596800","253402300800","0001-01-01T00:00:00Z","9999-12-31T23:59:59.999999Z","0x"+"a"*40,"0x"+"a"*64,"a"*2000,"ü","😀","a b","100","desc","asc","time","ingested","eyJ4IjoxfQ","8453"]
    rng=random.Random(1)
    combos=[(n,v) for n in names for v in vals]
    for n,v in combos:
        q=f"{n}={quote(v,safe='%')}"
        for path in ("/api/v1/events","/api/v1/triggers","/api/v1/deliveries"):
            a=await api.ask("GET",path+"?"+q,key=key)
            if a.status not in (200,422): bad.append((path,q,a.body))
    print(len(bad))
    made = (await api.ask("POST", "/api/v1/triggers", key=key, json=SOUND)).json()
    for seed in range(4):
        rng = random.Random(seed)
        for _ in range(700):
            body = SOUND
            for _ in range(rng.choice([1,1,2,3])): body = mutations(body, rng)
            for method, path in (("POST", "/api/v1/triggers"), ("PATCH", f"/api/v1/triggers/{made['id']}"),("PATCH", f"/api/v1/triggers/{made['id']}/circuit-breaker")):
                a = await api.ask(method, path, key=key, json=body)
                if a.status not in (200,201,400,422): bad.append((method,path,body,a.body))
    for b in bad[:10]: print("BAD",b)
    for l in log_lines:
        if l["event"]=="http.crashed": 
            import traceback
            print(l.get("exc_info"))
    assert not bad
