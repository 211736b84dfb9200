"""Speech without its background, for voice agents and calls: filters that frameworks load.

    from rtmtass.agents.pipecat import RtmtassFilter       # extra `pipecat`
    from rtmtass.agents.livekit import RtmtassProcessor    # extra `livekit`

Only these two modules import a framework; what they share is in `call`. See README.md here.
"""
